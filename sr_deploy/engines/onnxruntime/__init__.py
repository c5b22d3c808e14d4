"""ONNX Runtime: engines for the CPU, and for its CUDA and TensorRT providers."""
