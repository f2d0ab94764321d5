"""The int8 variant: calibration, quantization, the gate on its scores."""
