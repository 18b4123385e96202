"""Steering: plans, the hooks that carry them out, the methods that make them, and what they changed.

What other rooms use of it:

- ``effects``: ``EffectLog``
- ``hook_proof``: ``prove_hooks``
- ``hooks``: ``steering``
- ``method_table``: ``find_method``, ``options``, ``turning_methods``, ``boundary_methods``, ``markdown_table``,
  ``direction_methods``, ``Method``
- ``methods``: ``make_plan``, ``selective_steering``, ``standard_angular``, ``mean_phase_rotation``,
  ``phase_collapse``, ``target_projection``, ``act_add``, ``adaptive_angular``, ``check_options``, ``check_source``,
  ``directional_ablation``, ``fixed_coefficient``, ``mirror_projection``, ``projection_clamp``, ``unit_addition``,
  ``Source``
- ``methods.common``: ``Numbers``, ``Positions``, ``Sites``, ``row_of``
- ``monitor``: ``Monitor``, ``monitor``
- ``plans``: ``SteeringPlan``, ``Step``, ``numbers``, ``parse_numbers``, ``save_plan``, ``load_plan``
- ``value_sweep``: ``Build``, ``logits_by_value``, ``from_block``, ``kept_input``
"""
