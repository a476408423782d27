"""Tables of strangers: CSV as people and spreadsheets write it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import IO


def csv_rows(file: IO[str], spelling: Callable[[str], str] = str) -> csv.DictReader[str]:
    """Rows below the line of names; cells are parted by commas, semicolons or tabs, whichever that line has most of.

    What stands behind the last column has the key None.

    Args:
        file: open at its start, with `newline=""`.
        spelling: of the names of columns.

    Raises:
        ValueError: two columns have one name; spreadsheets may write empty ones behind the last.
        csv.Error: while reading, a quote is not closed.
    """
    names = file.readline()
    file.seek(0)
    reader = csv.DictReader(file, delimiter=max(",;\t", key=names.count), strict=True)
    columns = reader.fieldnames = [spelling(name) for name in reader.fieldnames or ()]
    named = [name for name in columns if name]
    if len(set(named)) < len(named):
        raise ValueError(f"of its columns {', '.join(named)} two have one name")
    return reader
