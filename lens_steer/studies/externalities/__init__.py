"""Side effects of benign steering on safety: the study, its prompts, controls, claims and figures.

The entry point is :func:`lens_steer.studies.externalities.study.study`.
"""
