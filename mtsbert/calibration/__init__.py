"""Makes scores mean what they say: calibration, and the thresholds that reach a precision."""
