"""Projection-aware steering of traits: calibration, the search over strengths, dialogues and tables.

The entry point is :func:`lens_steer.studies.traits.report.steer_trait`.
"""
