"""Video files through an Upscaler: decoded, upscaled, encoded in parts, joined with all else the source holds."""
