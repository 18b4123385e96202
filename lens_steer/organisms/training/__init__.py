"""The training of the embedded organisms, and the gates that they had to pass."""
