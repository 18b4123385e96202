"""Steering: plans, the hooks that carry them out, the methods that make them, and what they changed."""
