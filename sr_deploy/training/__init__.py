"""All code that imports torch: nets, losses, data, the trainer, checkpoints and export.

No other package may import torch, so that everything else runs without it.
"""
