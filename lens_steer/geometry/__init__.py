"""Geometry of steering: candidate directions, the plane, discriminative sites, and the calibration that holds them."""
