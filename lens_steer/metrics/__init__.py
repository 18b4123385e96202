"""Metrics of generations."""
