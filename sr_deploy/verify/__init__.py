"""Checking that all forms of a model compute the same picture."""
