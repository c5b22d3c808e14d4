"""Upscaling many pictures: which files to read, where results go, what is done already. Runs on one machine
or on a Ray cluster."""
