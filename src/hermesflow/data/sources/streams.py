"""Reading tars from end to end."""

from __future__ import annotations

import tarfile
import unicodedata
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Self

from hermesflow.core.errors import DataError


class Member(tarfile.TarInfo):
    """A file of a tar; a broken header is an error, where tarfile would take it for the end of the tar."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As tarfile's.

        Raises:
            tarfile.ReadError: the header is broken, or the tar ends without its blocks of zeros.
        """
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:
                raise
            raise tarfile.ReadError(str(error)) from error


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
    with reading(path), tarfile.open(path, mode="r|*", tarinfo=Member) as tar:
        for info in tar:
            name = PurePosixPath(info.name).as_posix()
            file = tar.extractfile(info) if name in missing and info.isfile() else None
            if file is not None:
                missing.remove(name)
                yield name, file.read()
            if not missing:
                return


def content_of(path: Path) -> bytes | None:
    """What a file holds; None where there is none, or no right to read it, or the path is none."""
    try:
        return path.read_bytes()
    except (OSError, ValueError):
        return None


def files_in(folder: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Some files of a folder by name; what cannot be read, or lies above the folder, does not come."""
    for name in sorted(names):
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            continue
        spellings = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))  # of accents
        contents = (content_of(folder / spelling) for spelling in spellings)
        if (content := next((one for one in contents if one is not None), None)) is not None:
            yield name, content
