"""Everything that imports torch: nets, losses, data, the trainer, checkpoints, export. Nothing outside may."""
