"""Import of directions and calibrations that other projects published."""
