"""Steering that is meant well, as Steering Externalities (arXiv 2602.04896) does it: towards compliance and towards JSON, and how each is calibrated, chosen and graded."""
