"""The one protocol: conditions are run on a select split, one is chosen, and it is reported on the report split with
its controls.
"""
