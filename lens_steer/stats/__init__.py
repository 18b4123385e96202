"""Estimates with intervals for rates, means, differences and areas, with or without clusters; the rule for ties.

What other rooms use of it:

- ``areas``: ``auroc``
- ``clusters``: ``Clusters``, ``alone``, ``cluster_numbers``
- ``differences``: ``paired_difference``
- ``draws``: ``less_mean_of_draws``
- ``estimates``: ``Estimate``, ``columns``, ``percent``, ``points``
- ``means``: ``bootstrap``, ``bootstrap_mean``, ``bootstrap_means``, ``clustered_mean``, ``grouped_mean``, ``middle``
- ``rates``: ``clustered_rate``, ``grouped_rate``, ``wilson``
- ``ties``: ``middle_of_best``
"""
