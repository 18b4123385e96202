"""Forward passes over batches of prompts: recording, generation, dialogues and teacher forcing."""
