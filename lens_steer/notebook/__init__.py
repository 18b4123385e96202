"""What a notebook shows: HTML views, tables and the dial."""
