"""ONNX Runtime: on the CPU, and its CUDA and TensorRT providers."""
