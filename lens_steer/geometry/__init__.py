"""Geometry of steering: candidate directions, discriminative sites, the steering plane, and the calibration that holds
them.
"""
