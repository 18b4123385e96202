"""Whether a direction holds on prompts of another source, and how many prompts it needs."""
