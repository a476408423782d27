"""Benchmarks of understanding, generation and the gap between them, with bootstrap intervals."""
