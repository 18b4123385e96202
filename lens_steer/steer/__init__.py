"""Steering: plans, the hooks that carry them out, methods that make them, and what they did to the activations."""
