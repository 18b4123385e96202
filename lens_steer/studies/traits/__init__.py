"""Projection-aware steering of traits: calibration, the search over strengths, dialogues, tables; see
:func:`lens_steer.studies.traits.report.steer_trait`.
"""
