"""Timing of the hot paths; see `python -m benchmarks --help`."""
