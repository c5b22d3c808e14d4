"""Photographs in, batches of crops out."""
