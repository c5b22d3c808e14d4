"""What several commands need: options, printing, progress, paths."""
