"""Forward passes over batches of prompts: recording, generation, dialogues and teacher forcing.

What other rooms use of it:

- ``attach``: ``SiteFunction``, ``at_input``, ``attached``, ``standing_in``, ``stream_of``
- ``batching``: ``Batch``, ``encode``, ``padded``, ``render``, ``encode_response``, ``opening``, ``rows_a_batch``
- ``class_means``: ``Moments``, ``recording``, ``unit_samples_of``
- ``clock``: ``Clock``, ``clock_for``, ``steers``
- ``continuations``: ``continuation_logs``, ``MAX_ROWS``
- ``decoding``: ``begins_in_thought``, ``decode_answer``
- ``dialogue``: ``Dialogue``, ``converse``, ``turn_ids``
- ``engines``: ``check_engine``, ``check_idle``, ``on_engine``, ``Active``, ``active``, ``active_plans``,
  ``check_rows``
- ``forward``: ``batches_of``, ``last_logits``, ``check_room``, ``read_sites``, ``logits_on``, ``forward``
- ``generation``: ``generate``, ``Answers``, ``answer_ids``, ``answers``, ``tell_closed``,
  ``tell_cut_off``
- ``places``: ``Places``
- ``pooling``: ``Pooling``, ``FORCED``, ``checked_pooling``, ``check_poolable``
- ``positions``: ``first_steered``, ``normalized``, ``parse``, ``n_reused``
- ``prompt_cache``: ``PromptCache``
- ``record``: ``Activations``, ``record``, ``record_prompts``, ``check_sides``, ``stream``, ``width_of``
- ``record_sides``: ``record_sides``
- ``record_tokens``: ``record_tokens``
- ``recordings``: ``load_recording``, ``save_recording``, ``join_recordings``, ``holds_recording``, ``part_of``
- ``remote``: ``records_of``, ``remote_of``, ``remote_surprise``
- ``rendering``: ``tokens``, ``tokens_after_instruction``
- ``scored``: ``scored_answers``
- ``scored_dialogue``: ``scored_dialogues``, ``check_dialogues``, ``TurnAnswer``
- ``shared_prefix``: ``counted_from_the_first``, ``shared_prefix``
- ``teacher_forcing``: ``with_responses``, ``response_logits``, ``logits_budget``, ``first_logits_by_batch``,
  ``first_logits``
- ``thought_budget``: ``check_budget``
- ``unembedding``: ``Unembedding``, ``compare``, ``read_by_unembedding``
"""
