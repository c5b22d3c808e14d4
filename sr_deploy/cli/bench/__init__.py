"""`sr-deploy bench` and its subcommands."""
