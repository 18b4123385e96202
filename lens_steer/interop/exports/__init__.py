"""Export of steering as weights and as adapters, each with a certificate."""
