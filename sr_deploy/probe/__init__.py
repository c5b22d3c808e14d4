"""Find the spec of a foreign ONNX file by running the file on pictures."""
