"""Does an angle that was found on one source of prompts hold on another? The study, its claims, figures and files."""
