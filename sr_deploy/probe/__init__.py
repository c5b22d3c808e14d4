"""Finding out what a foreign ONNX file is, by running it."""
