"""Reading tars from end to end."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hermesflow.core.errors import DataError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file is broken, and what to do.

    Raises:
        DataError: in place of the errors of a truncated or foreign file.
    """
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: truncated or not a tar ({type(error).__name__}: {error}). Fetch or copy it again, then run "
            "again: what was taken from other files is kept."
        ) from error
