"""Interactive parts for a notebook: HTML views, tables and the dial."""
