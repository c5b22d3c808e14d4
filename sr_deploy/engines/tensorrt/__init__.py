"""TensorRT: building engines, keeping them, running them."""
