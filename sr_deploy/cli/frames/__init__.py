"""The commands `video` and `pipe`, which upscale frames, and what they share."""
