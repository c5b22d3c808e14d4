"""Code that several commands share: options, arguments that are paths, printing and progress."""
