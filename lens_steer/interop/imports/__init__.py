"""Directions and calibrations that others published, read into ours."""
