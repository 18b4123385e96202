"""How the embedded organisms were trained and what they had to pass."""
