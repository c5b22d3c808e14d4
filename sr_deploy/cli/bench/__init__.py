"""The command `bench` with its subcommands: options, measuring, output and comparison of results."""
