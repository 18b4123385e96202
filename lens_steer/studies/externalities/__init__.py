"""Side effects of benign steering on safety: the study, its material, controls, claims and figures; see
:func:`lens_steer.studies.externalities.study.study`.
"""
