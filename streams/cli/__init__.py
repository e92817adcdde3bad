"""The command line: `check-dedup --help`. One file for each group of commands."""
