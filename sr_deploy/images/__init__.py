"""Pictures as values and as files: `image` reads and writes them, `codecs` knows the formats, `resize` resamples."""
