"""A training run: its phases, its steps, its state on disk."""
