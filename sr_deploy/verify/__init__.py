"""Checks that every form of a model computes the same picture."""
