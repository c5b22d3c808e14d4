"""Read, write and change ONNX graphs, without torch."""
