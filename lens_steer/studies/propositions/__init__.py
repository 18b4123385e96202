"""Published claims as records, each with a criterion fixed before the measurement and a verdict either way."""
