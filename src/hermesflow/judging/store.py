"""Answers paid for, kept on disk by content: no question is paid for twice, whichever run asks it.

Each process appends to a file of its own, one answer a line, and reads those of all: no locks, and a kill or a full
disk costs one line at most (and what was under way when the kill came, which nobody can know of, is asked again).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from hermesflow.errors import ConfigError
from hermesflow.judging.cost import Reply


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
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue
        return replies

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Open this process's file before anything is paid for.

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
        try:
            yield
        finally:
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
