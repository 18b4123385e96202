"""Steering operators: pure functions of tensors, ``(… d_model) → (… d_model)``, at a cost of O(d_model) per token."""
