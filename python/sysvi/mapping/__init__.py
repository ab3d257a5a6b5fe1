"""Labels of new cells from those of a reference, with calibrated doubt; references that can be shared."""
