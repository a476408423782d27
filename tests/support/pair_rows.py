"""Rows of a file of pairs as they are stored, images encoded."""

from hermesflow.data.pairs import read_pairs


def read_rows(path):
    return read_pairs(path).with_format("arrow")[:].to_pylist()
