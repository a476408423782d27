"""What a long data step has done so far, in one SQLite file: a killed run goes on from its last whole piece."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermesflow.core.errors import DataError

_COMMIT_EVERY = 200  # images

_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pictures
    (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, fault TEXT NOT NULL, changes TEXT NOT NULL, png BLOB);
CREATE TABLE IF NOT EXISTS texts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Taken:
    """What became of one image."""

    name: str
    """Of the image in the whole source (`Candidate.image`)."""
    sha256: str
    """Of the image file as its source holds it; empty where there is none."""
    fault: str
    """Why it cannot be used; empty if it can."""
    changes: tuple[str, ...]
    """What was done to its pixels."""
    png: bytes | None
    """The image as the model needs it."""


class Store:
    """Images taken so far, and texts that models have written, by key.

    Args:
        connection: an open database with the tables.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        known = connection.execute("SELECT name, fault, sha256 FROM pictures")
        self._known: dict[str, tuple[str, str]] = {name: (fault, digest) for name, fault, digest in known}

    def fault(self, name: str) -> str | None:
        """Why an image cannot be used; empty if it can, None if it has not been looked at."""
        return self._known[name][0] if name in self._known else None

    def sha256(self, name: str) -> str:
        """Of an image file; empty if it has not been looked at, or is not there."""
        return self._known[name][1] if name in self._known else ""

    def add_images(self, images: Iterable[Taken]) -> None:
        """Keep images, in transactions of some hundred."""
        for number, image in enumerate(images, start=1):
            values = (image.name, image.sha256, image.fault, json.dumps(image.changes), image.png)
            self._connection.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?)", values)
            self._known[image.name] = (image.fault, image.sha256)
            if number % _COMMIT_EVERY == 0:
                self._connection.commit()
        self._connection.commit()

    def image(self, name: str) -> Taken:
        """One image that was kept.

        Raises:
            KeyError: it was not.
        """
        row = self._connection.execute("SELECT * FROM pictures WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise KeyError(name)
        name, digest, fault, changes, png = row
        return Taken(name, digest, fault, tuple(json.loads(changes)), png)

    def text(self, key: str) -> Any | None:
        """A JSON value kept under a key, or None."""
        row = self._connection.execute("SELECT value FROM texts WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def add_text(self, key: str, value: Any) -> None:
        """Keep a JSON value."""
        self._connection.execute("INSERT OR REPLACE INTO texts VALUES (?, ?)", (key, json.dumps(value)))
        self._connection.commit()


@contextmanager
def open_store(path: Path, *, made_from: str, retry: bool) -> Iterator[Store]:
    """Open or make a store.

    Args:
        path: the SQLite file.
        made_from: digest of what its images depend on; images of another digest are dropped, texts stay.
        retry: forget images that could not be used: somebody may have mended them.

    Raises:
        DataError: the file is not a store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    try:
        connection.executescript(_TABLES)
        known = connection.execute("SELECT value FROM about WHERE key = 'images'").fetchone()
        if known != (made_from,):
            connection.execute("DELETE FROM pictures")
            connection.execute("INSERT OR REPLACE INTO about VALUES ('images', ?)", (made_from,))
        if retry:
            connection.execute("DELETE FROM pictures WHERE fault != ''")
        connection.commit()
        yield Store(connection)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # a full disk, a lock: not the file's fault
            raise
        raise DataError(f"{path}: not a readable store of finished work ({error}). Delete it and run again.") from error
    finally:
        connection.close()
