"""A checkpoint's encoder as an ONNX graph."""
