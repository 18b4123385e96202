"""Import from and export to the formats of other tools.

What other rooms use of it:

- ``exports.certificate``: ``Certificate``, ``Trial``
- ``exports.folding``: ``fold``
- ``exports.lora``: ``check_new``, ``export_circle``, ``export_lora``, ``circle_weights``, ``export_bank``, ``peft``
- ``exports.merged``: ``export_merged``
- ``exports.recipes``: ``check_recipe``, ``recipe``
- ``gguf.adapter``: ``add_gguf``, ``check_gguf``, ``gguf_base``
- ``gguf.control_vectors``: ``check_place``, ``completed``, ``export_control_vector``
- ``gguf.files``: ``gguf_package``
- ``gguf.vectors``: ``control_vector``, ``import_gguf``
- ``imports.angular``: ``import_angular``
- ``imports.direction_files``: ``load_directions``, ``save_directions``
- ``imports.hidden_states``: ``import_hidden_states``
- ``imports.model_facts``: ``model_facts``
- ``imports.official``: ``import_official``
- ``imports.refusal_direction``: ``import_refusal_direction``
- ``imports.steering_vectors``: ``import_steering_vectors``
- ``serving.adapters``: ``check_served``, ``engine_for``
- ``serving.certificate``: ``EngineCertificate``, ``keep_records``
- ``serving.vllm_engine``: ``VllmEngine``, ``VllmSettings``, ``check_installed``
"""
