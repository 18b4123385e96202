"""The protocol: every setting runs on the select split, one is chosen, and it is reported on the report split.

The controls of the chosen setting run beside it.

What other rooms use of it:

- ``bounds``: ``measured_bound``, ``harmless_alone``
- ``budgeted``: ``ANGLES``, ``BUDGET``, ``check_angles``, ``within``
- ``cells``: ``told``, ``read``, ``plain``, ``labels_of``, ``counts``, ``clusters_of``
- ``compared``: ``held``
- ``comparison``: ``Comparison``, ``compare``
- ``conditions``: ``method_grids``, ``has_angle``, ``control_grids``, ``probe_grid``, ``rule_grids``,
  ``plan_at_value``, ``draw_sites``
- ``control_bands``: ``Band``, ``band``, ``bands``, ``ranges``
- ``control_runs``: ``plain_bands``, ``Beside``, ``run_controls``
- ``controls``: ``Controls``, ``report_draws``, ``select_draws``, ``shuffled_calibrations``
- ``cost``: ``cost``, ``probe``
- ``direction_selection``: ``select_direction``, ``first_of``
- ``equal_divergence``: ``Match``, ``Curve``, ``curve``, ``match``
- ``first_token``: ``FirstToken``, ``first_token``
- ``grids``: ``Grid``, ``plan_hash``, ``values_of``
- ``harmonics``: ``fit_harmonic``, ``how_many_angles``, ``Degrees``, ``HarmonicFit``
- ``pieces``: ``Pieces``, ``check_beginning``, ``drop``, ``kept_calibration``
- ``protocol``: ``check_splits``, ``chosen_grids``, ``on_select``, ``Evaluation``, ``default_constraints``,
  ``differences``, ``kept_constraints``
- ``provenance``: ``provenance``
- ``published_direction``: ``published_direction``, ``PublishedDirection``, ``named``
- ``quantities``: ``objective_of``, ``renamed``
- ``refinement``: ``tried``
- ``selection``: ``Choice``, ``Setting``, ``Constraint``, ``settings``, ``Settings``, ``choose``, ``kept_out``,
  ``at_nothing``, ``is_counted``
- ``sweep_work``: ``comparing``, ``sweeping``, ``bounding``
- ``sweep_protocol``: ``Protocol``
- ``sweeps``: ``run``
- ``work``: ``Work``, ``recording``, ``answering``, ``bare``, ``forcing_answers``, ``measuring``, ``conversing``,
  ``forcing_values``, ``scoring_answers``, ``selecting_direction``
"""
