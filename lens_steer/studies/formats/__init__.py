"""Does a direction depend on the chat template or the system prompt? The study, its claims, figures and files."""
