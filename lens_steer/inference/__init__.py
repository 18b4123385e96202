"""Forwards over batches of prompts: recording, generation, dialogues, fixed answers."""
