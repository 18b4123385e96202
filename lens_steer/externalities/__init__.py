"""Side effects of benign steering on safety: the study, its material, controls, claims and figures; see :func:`lens_steer.externalities.study.study`."""
