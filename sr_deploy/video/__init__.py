"""Upscaling video files: decode, upscale, encode in parts, and join the parts with the other streams of the
source."""
