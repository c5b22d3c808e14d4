"""The TensorRT backend: builds engines for NVIDIA GPUs, caches them and runs them."""
