"""Metrics of generated texts and of next-token distributions.

What other rooms use of it:

- ``benchmarks``: ``Tasks``, ``task_splits``, ``organism_tasks``, ``question_splits``, ``tasks_or_own``
- ``choices``: ``likeliest_options``
- ``degenerate``: ``PerplexityBound``, ``perplexity_bound``, ``is_degenerate``
- ``grading``: ``grade``, ``grades_of``, ``Outcome``, ``graded``, ``outcome_of``, ``refuses``
- ``judges``: ``Judge``, ``PhraseJudge``, ``Verdict``, ``agreement``, ``tally``
- ``judges.labels``: ``read_labels``, ``with_labels``, ``Labelled``
- ``judges.spec``: ``judge_of``
- ``kl``: ``mean_kl_by_value``, ``kl``
- ``likelihood``: ``mean_surprise``, ``surprise_of``
- ``refusal``: ``is_refusal``
- ``refusal_openings``: ``measured_openings``, ``NoRefusalError``
- ``refusal_score``: ``refusal_scores_by_value``, ``refusal_score``, ``refusal_tokens``
- ``rows``: ``text_metrics``, ``thought_metrics``
- ``text``: ``shared_ngrams``
- ``thinking``: ``split_thought``
- ``token_divergence``: ``TokenDivergence``, ``token_divergence``, ``check_max_position``
"""
