"""Export: from a checkpoint to a checked ONNX file."""
