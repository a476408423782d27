"""Reading tars from end to end."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

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


def tar_files(path: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Some files of a tar by name, in one pass that ends with the last of them; of equal names the first."""
    missing = set(names)
    with reading(path), tarfile.open(path, mode="r|*") as tar:
        for info in tar:
            name = PurePosixPath(info.name).as_posix()
            file = tar.extractfile(info) if name in missing and info.isfile() else None
            if file is not None:
                missing.remove(name)
                yield name, file.read()
            if not missing:
                return
