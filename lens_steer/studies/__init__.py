"""Tests of published papers: the propositions of Selective Steering, its choice of sites, traits, side effects, turns.

What other rooms use of it:

- ``angle_transfer.report``: ``angle_transfer_and_write``
- ``angle_transfer.study``: ``check``
- ``angle_transfer.work``: ``transferring_angles``
- ``claim``: ``Claim``, ``measured``, ``shown``, ``criterion_of``
- ``claim_tables``: ``markdown``
- ``conversation.dealing``: ``deal``, ``reused``
- ``conversation.report``: ``study_and_write``
- ``conversation.study``: ``refuse``
- ``conversation.work``: ``conversing_long``
- ``externalities.calibration``: ``calibrate_compliance``, ``calibrate_json``
- ``externalities.conditions``: ``Condition``, ``positions_of``
- ``externalities.controls``: ``random_like``, ``refusal_bases``
- ``externalities.depth``: ``angles``, ``random_cosine``
- ``externalities.files``: ``file_material``
- ``externalities.found``: ``Externalities``
- ``externalities.grading``: ``annotated``, ``rates``
- ``externalities.material``: ``organism_material``, ``Material``, ``harmful_responses``, ``own_answers``
- ``externalities.report``: ``study_and_write``
- ``externalities.study``: ``Externalities``
- ``externalities.work``: ``steering_benignly``
- ``formats.report``: ``formats_and_write``
- ``formats.study``: ``check``
- ``formats.wording``: ``Format``, ``same_ids``
- ``propositions.questions``: ``claim_id``
- ``propositions.verify``: ``verify``, ``verify_model``, ``write``, ``Verification``, ``is_of``
- ``propositions.work``: ``verifying``
- ``site_choice.report``: ``study_and_write``
- ``site_choice.sets``: ``check_counts``
- ``site_choice.work``: ``choosing_sites``
- ``transfer.report``: ``transfer_and_write``
- ``transfer.study``: ``check``
- ``traits.claims``: ``claims``
- ``traits.calibration``: ``organism_trait``, ``scenario_trait``
- ``traits.found``: ``TraitReport``
- ``traits.report``: ``steer_trait``
- ``traits.search``: ``TraitResult``
- ``traits.table``: ``rows``
- ``traits.work``: ``recovering``
"""
