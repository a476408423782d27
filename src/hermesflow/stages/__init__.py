"""Thin I/O around the core functions: one module per workflow rule, each with `run(...)`."""
