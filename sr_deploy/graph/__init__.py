"""Surgery on ONNX graphs: records, pixel I/O, precision, footprints, probing. No torch, no pictures on disk."""
