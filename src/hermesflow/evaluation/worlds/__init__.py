"""Counterparts of the benchmarks that need no download, measured on held-out pairs."""
