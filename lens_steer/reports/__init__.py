"""Folders that the commands write: report, sweep, comparison, probe and direction.

What other rooms use of it:

- ``agreement_report``: ``agreement_and_write``
- ``compare_report``: ``compare_and_write``
- ``comparison_text``: ``no_draws``
- ``direction_report``: ``select_and_write``, ``check_out``
- ``probe_report``: ``probe_and_write``
- ``report``: ``make_report``, ``check_kept``
- ``report_work``: ``reporting``
- ``sweep_report``: ``sweep_method``, ``Swept``
"""
