"""The protocol: every setting runs on the select split, one is chosen, and it is reported on the report split.

The controls of the chosen setting run beside it.
"""
