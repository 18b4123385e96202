"""Models: their location, their loading through Hugging Face, and their sites, chat templates and sizes.

What other rooms use of it:

- ``fingerprint``: ``fingerprint``, ``n_hooks``
- ``fits``: ``check_fits``, ``reference``, ``ModelRef``
- ``footprint``: ``Shape``, ``estimate``, ``measured_flops``, ``stored_dtype``
- ``hub``: ``only_here``
- ``huggingface``: ``is_gguf``, ``is_text_part``, ``read_weights``, ``text_part``, ``without_bar``
- ``info``: ``ModelInfo``, ``read_info``
- ``loading``: ``info_of``, ``hf_twin``, ``device_of``, ``ModelInfo``, ``blocks_of``, ``usable_device``,
  ``embedding_of``, ``load_model``, ``final_norm_of``, ``read_again``, ``load_described``
- ``layout``: ``Layout``, ``ROUTER_LOGITS``, ``WithLayout``, ``known_layout``, ``layout_row``, ``read_layout_row``
- ``logits``: ``soft_cap``
- ``location``: ``locate``, ``read_config``
- ``proof``: ``bound_of``, ``prove``, ``ProofError``, ``ProofRow``
- ``proved``: ``proof_of``, ``errors_of``
- ``proof_forwards``: ``relative_error``
- ``quantization``: ``dequantized``, ``plain_weight``
- ``sites``: ``parse``, ``blocks_of``, ``resolve``, ``Site``, ``parse_module``, ``cached_columns``, ``point``,
  ``kinds_of``, ``check_writable``
- ``structure``: ``StructureError``, ``find_layout``, ``layout_of``
- ``templates``: ``ChatTemplate``, ``template_of``, ``fix_template``, ``another_template``
- ``thoughts``: ``marks_of``, ``needed_marks``, ``Marks``
- ``tokenization``: ``pad_id``, ``plain_ids``, ``read_tokenizer``, ``template_text``
"""
