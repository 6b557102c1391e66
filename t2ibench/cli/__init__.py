"""Command line: its verbs, and the only use of Hydra."""
