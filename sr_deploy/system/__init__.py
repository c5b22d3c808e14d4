"""The operating system: files written whole, claims, memory, cores, output files. Standard library only."""
