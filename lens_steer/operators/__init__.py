"""Steering operators: pure functions of tensors, ``(… d_model) → (… d_model)``, at a cost of O(d_model) per token.

What other rooms use of it:

- ``addition``: ``add_direction``, ``unit_direction``, ``ablate_direction``
- ``affine``: ``AffineMap``
- ``catalogue``: ``operator``, ``bind``, ``Bound``, ``compare``
- ``exact``: ``exact``, ``exact_device``, ``prepared``
- ``parameters``: ``Parameter``
- ``projection``: ``check_gate``, ``beyond``, ``mirror_projection``, ``past_threshold``, ``target_projection``
- ``rotation``: ``adaptive_angular``, ``selective_rotation``, ``standard_angular``, ``degrees``
"""
