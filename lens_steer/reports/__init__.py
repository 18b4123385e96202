"""Folders that the commands write: report, sweep, comparison and probe.

What other rooms use of it:

- ``compare_report``: ``compare_and_write``
- ``comparison_text``: ``no_draws``
- ``probe_report``: ``probe_and_write``
- ``report``: ``make_report``, ``check_kept``
- ``report_work``: ``reporting``
- ``sweep_report``: ``sweep_method``, ``Swept``
"""
