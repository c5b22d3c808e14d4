"""Tests with the real parser and compiler of TensorRT for RTX."""
