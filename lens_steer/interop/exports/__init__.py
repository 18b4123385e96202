"""Steering folded into weights and adapters, each with a certificate."""
