"""Steering operators: pure functions of tensors, ``(… d_model) → (… d_model)``, O(d_model) a token."""
