"""Measured quality: metrics, the bicubic they are anchored on, and evaluation on folders of pictures."""
