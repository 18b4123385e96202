"""Geometry of steering: candidate directions, the plane, discriminative sites, and the calibration that holds them.

What other rooms use of it:

- ``boundary``: ``Boundary``, ``boundary``, ``class_statistics``
- ``calibration``: ``Calibration``, ``calibrate``, ``versions``, ``prompt_statistics``, ``PromptStatistics``,
  ``check_candidate_norm``
- ``direction_comparison``: ``DirectionComparison``, ``compare_directions``
- ``direction_files``: ``holds_direction``, ``load_direction``, ``save_direction``, ``score_rows``
- ``directions``: ``zero_rows``, ``candidate_directions``, ``class_means``, ``select_direction``, ``unit_rows``
- ``discriminative``: ``check_rule``, ``discriminative_sites``, ``opposite_sign``
- ``estimators``: ``check_classes``, ``fisher``
- ``files``: ``load_calibration``, ``save_calibration``
- ``halves``: ``Dealt``, ``deal_halves``, ``chance``, ``cosine``, ``jaccard``
- ``logistic``: ``fit``, ``prepare``, ``Samples``, ``probabilities``
- ``planes``: ``gram_error``, ``orthonormalise``, ``random_plane``, ``turned_at_random``, ``plane_coordinates``,
  ``principal_angles``, ``principal_component``
- ``resampling``: ``Options``, ``Recalibrated``, ``Samples``, ``recalibrate``
- ``rules``: ``cautions``, ``discriminative_by_rule``, ``with_rule``, ``with_separations``, ``site_rows``, ``sureness``
- ``selected_direction``: ``SelectedDirection``, ``StreamDirection``, ``CandidateScore``, ``DirectionBounds``
- ``stability``: ``Stability``, ``stability``, ``Resamples``
- ``summary``: ``summarise``, ``classes``, ``GeometrySummary``, ``plain``
"""
