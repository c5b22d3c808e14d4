"""From a checkpoint to a checked ONNX file."""
