"""What does steering do over a conversation? Effect and side effects turn by turn, over a history of its own."""
