"""Training data: pictures from a folder become batches of crops."""
