"""Published claims as records: stated, tested against a criterion fixed beforehand, and judged either way."""
