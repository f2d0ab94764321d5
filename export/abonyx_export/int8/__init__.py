"""The int8 variant: calibration, quantization, and the gate on its scores."""
