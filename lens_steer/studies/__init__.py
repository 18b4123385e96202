"""Papers put to the test: propositions, traits, externalities."""
