"""Pictures as values and as files.

`image` reads and writes them, `codecs` knows the file formats, `resize` resamples, `sizes` computes
output sizes.
"""
