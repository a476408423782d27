"""Answers of judges, kept on disk by content: no question is asked twice, whichever run asks it.

Each process appends to a file of its own, one answer a line, and reads those of all: a kill or a full disk costs one
line at most (and what was under way when the kill came, which nobody can know of, is asked again). One process at a
time asks; a lock that a kill gives back makes others wait and see what it brought. Where a file system has no locks,
two at once may ask the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from hermesflow.core.errors import ConfigError
from hermesflow.evaluation.judges.replies import Reply


class AnswerStore:
    """Replies by key in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: TextIO | None = None
        self._lock = threading.Lock()

    def read(self) -> dict[str, Reply]:
        """All replies kept, of this process and others; lines that were cut short are as if they were not there."""
        replies = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_text(errors="replace").split("\n"):
                try:
                    record = json.loads(line)
                    replies[record["key"]] = Reply(**record["reply"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
        return replies

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait until no other process asks, and open this process's file before anything is paid for.

        What others have added meanwhile must be read inside the block.

        Raises:
            ConfigError: the folder cannot be written.
        """
        name = f"{time.time_ns()}-{socket.gethostname()}-{os.getpid()}.jsonl"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / name).open("a")
        except OSError as error:
            raise ConfigError(
                f"benchmarks.gap.judge.cache: {self._folder} cannot be written ({error.strerror}). Make it writable or "
                "name another."
            ) from error
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            self._lock_or_wait(folder)
            yield
        finally:
            os.close(folder)
            self._file.close()
            self._file = None

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply, from any thread, inside `writing`."""
        with self._lock:
            if self._file is None:
                raise RuntimeError("AnswerStore.add outside of writing()")
            # The line end stands first: what a full disk cut short spoils no later line.
            self._file.write("\n" + json.dumps({"key": key, "reply": asdict(reply)}))
            self._file.flush()

    def _lock_or_wait(self, folder: int) -> None:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{self._folder}: another process asks; waiting until it has ended", file=sys.stderr, flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # no locks here
            return
