"""Models: found, loaded as Hugging Face has them, their sites, chat templates and sizes."""
