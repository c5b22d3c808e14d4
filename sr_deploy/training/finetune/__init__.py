"""Fine-tune any ONNX net for int8: `graph_net.py` runs its graph in torch, `tuning.py` tunes weights and ranges."""
