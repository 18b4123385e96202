"""Models: their location, their loading through Hugging Face, and their sites, chat templates and sizes."""
