"""What MLflow could not take, kept on disk until it can: one folder per process in `results/.mlflow-spool`.

A folder holds `records.jsonl` (one record a line, only ever appended to), copies of files, and a lock that its process
holds as long as it lives. Whoever else sends a folder locks it and moves it aside first, and removes it when all has
arrived; a process whose folder is gone starts another one. So nothing is lost, also where locks do not reach from host
to host, but a record may be sent twice: MLflow takes both for one.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

FOLDER = ".mlflow-spool"
PAUSE = 30.0
"""Seconds until a server that failed is tried again."""
SHARE = 20
"""Or so many times what the last try took, if that is longer: a server that hangs costs 5 % of the time at most."""

_RECORDS, _LOCK, _FILES, _ASIDE = "records.jsonl", "lock", "files", ".taken"


@dataclass(frozen=True)
class RunName:
    """What a run is found by, or made with where it is not there yet."""

    experiment: str
    name: str
    tags: dict[str, str]
    """It is found by these."""
    made_with: dict[str, str]
    """Further tags of a new run."""
    parent: RunName | None = None


@dataclass(frozen=True)
class Record:
    """One call to MLflow, as plain data."""

    server: str | None
    """Address it was meant for; None is the database beside the results."""
    run: RunName
    kind: str
    """run, metrics, files, input, table or status."""
    time: int
    """When it happened, in milliseconds since 1970."""
    data: dict[str, Any]

    def __str__(self) -> str:
        if self.kind == "metrics":
            detail = f"of step {self.data['points'][0][3]} "
        else:
            detail = f"`{self.data[key]}` " if (key := "path" if self.kind == "files" else "name") in self.data else ""
        return f"{self.kind} {detail}of run `{self.run.name}`"


class Server(Protocol):
    """Where records go."""

    @property
    def title(self) -> str:
        """What to call it in messages."""

    def deliver(self, record: Record) -> None:
        """Send one record; any exception says that it has not arrived."""

    def ping(self) -> None:
        """Do nothing where the server answers; raise where it does not."""

    def explain(self, error: Exception) -> str:
        """What went wrong, on one line."""


@dataclass(frozen=True)
class Outcome:
    """What became of the records of a folder."""

    sent: int
    refused: list[tuple[Record, Exception]]
    """Not taken by a server that answers; still in the folder."""


class Spool:
    """The folder this process writes to, begun with the first record."""

    def __init__(self, home: Path) -> None:
        """Remember the results folder."""
        self._home = home
        self._lock: IO[str] | None = None
        self.folder: Path | None = None

    def add(self, record: Record) -> None:
        """Append a record, and copy the files it names.

        Raises:
            OSError: the disk does not take it, or a file is not there.
        """
        for _ in range(3):  # again where somebody has taken the folder away
            try:
                folder = self.folder = self.folder or self._begin()
                _append(folder, record)
                if folder.exists():
                    return
            except (FileNotFoundError, BlockingIOError):
                if self.folder and self.folder.exists():
                    raise
            self.folder = None
        raise OSError(f"{self._home / FOLDER}: what is written there is removed at once")

    def _begin(self) -> Path:
        name = f"{time.time_ns()}-{socket.gethostname()}-{os.getpid()}"
        folder = self._home / FOLDER / name
        folder.mkdir(parents=True)
        if self._lock:
            self._lock.close()
        self._lock = (folder / _LOCK).open("a")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return folder


class Outbox:
    """Hands records to a server at once, and keeps them in a spool while it is away."""

    def __init__(self, home: Path, server: Server) -> None:
        """Take the results folder and the server; nothing is sent yet."""
        self._home, self._server, self._spool = home, server, Spool(home)
        self._away, self._again, self._told_loss = False, 0.0, False

    def put(self, record: Record) -> None:
        """Send a record, or keep it; earlier ones that were kept go first."""
        if self._away and not self._is_back():
            self._keep(record)
            return
        began = time.monotonic()
        try:
            self._server.deliver(record)
        except Exception as error:  # whatever MLflow, SQL or the network raise
            self._keep(record)
            self._away = True
            self._wait(began)
            _say(
                f"{self._server.title} failed ({self._server.explain(error)}). The work goes on; records are kept in "
                f"{self._home / FOLDER} and sent as soon as it answers, or by "
                f"`python -m hermesflow sync --results {os.path.relpath(self._home)}`."
            )

    def _is_back(self) -> bool:
        if (began := time.monotonic()) < self._again:
            return False
        try:
            self._server.ping()
            folder = self._spool.folder
            outcome = send(folder, read(folder)[0], self._server) if folder else Outcome(0, [])
        except Exception:  # as above
            self._wait(began)
            return False
        self._away = False
        refused = "".join(f" It refused {r} ({self._server.explain(e)}), still kept." for r, e in outcome.refused[:1])
        _say(f"{self._server.title} is back and has the {outcome.sent} records kept meanwhile.{refused}")
        return True

    def _keep(self, record: Record) -> None:
        try:
            self._spool.add(record)
        except OSError as error:
            if not self._told_loss:
                _say(f"{record} could not be kept on disk and is lost: {error}")
            self._told_loss = True

    def _wait(self, began: float) -> None:
        now = time.monotonic()
        self._again = now + max(PAUSE, SHARE * (now - began))


def waiting(home: Path) -> list[Path]:
    """Folders of all processes that left something to send, oldest first."""
    return sorted(path for path in (home / FOLDER).glob("*") if path.is_dir())


@contextmanager
def taken(folder: Path) -> Iterator[Path | None]:
    """Lock a folder and move it aside to send it; None where its process lives or somebody else sends it."""
    aside = folder if folder.name.endswith(_ASIDE) else folder.with_name(folder.name + _ASIDE)
    try:
        lock = (folder / _LOCK).open("a")
    except FileNotFoundError:
        yield None
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(folder, aside)
        except (BlockingIOError, FileNotFoundError):
            yield None
        else:
            yield aside


def read(folder: Path) -> tuple[list[Record], int]:
    """Records of a folder in their order, and the number of lines that a kill (or a full disk) cut short."""
    records, cut = [], 0
    path = folder / _RECORDS
    for line in path.read_text(errors="replace").split("\n") if path.exists() else []:
        try:
            plain = json.loads(line) if line else None
        except json.JSONDecodeError:
            cut += 1
        else:
            records += [Record(**{**plain, "run": _run_name(plain["run"])})] if plain else []
    return records, cut


def send(folder: Path, records: Sequence[Record], server: Server) -> Outcome:
    """Send the records of a folder in order; remove it, or leave in it what an answering server refused.

    Raises:
        Exception: what `server.ping` raises. The server is away; the folder is as it was.
    """
    refused: list[tuple[Record, Exception]] = []
    for group in _groups(records):
        refused += _deliver(folder, group, server)
    if refused:
        temporary = folder / f".{_RECORDS}"
        temporary.write_text("".join(map(_line, (record for record, _ in refused))))
        os.replace(temporary, folder / _RECORDS)
    else:
        (folder / _RECORDS).unlink(missing_ok=True)  # first: a kill from here on leaves nothing to send
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(len(records) - len(refused), refused)


def _append(folder: Path, record: Record) -> None:
    if record.kind == "files":
        source = Path(record.data["path"])
        copy = folder / _FILES / str(time.time_ns()) / source.name
        (folder / _FILES).mkdir(exist_ok=True)
        copy.parent.mkdir()
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
        record = replace(record, data={**record.data, "path": str(copy.relative_to(folder))})
    with (folder / _RECORDS).open("a") as file:
        file.write(_line(record))


def _line(record: Record) -> str:
    # The line end stands first: what a full disk cut short spoils no later record.
    return "\n" + json.dumps(asdict(record))


def _run_name(plain: dict[str, Any]) -> RunName:
    return RunName(**{**plain, "parent": _run_name(plain["parent"]) if plain["parent"] else None})


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Metrics of one run that follow each other go together, the rest one by one."""
    for (_, kind), group in itertools.groupby(records, key=lambda record: (record.run, record.kind)):
        together = list(group)
        yield from [together] if kind == "metrics" else ([record] for record in together)


def _deliver(folder: Path, records: list[Record], server: Server) -> list[tuple[Record, Exception]]:
    """Send records of one group and find those that the server refuses, by halving."""
    first, data = records[0], records[0].data
    if first.kind == "files":
        data = {**data, "path": str(folder / data["path"])}
    elif first.kind == "metrics":
        data = {"points": [point for record in records for point in record.data["points"]]}
    try:
        server.deliver(replace(first, data=data))
    except Exception as error:  # whatever it is: the server answers, so this record is the reason
        server.ping()
        if len(records) == 1:
            return [(first, error)]
        half = len(records) // 2
        return _deliver(folder, records[:half], server) + _deliver(folder, records[half:], server)
    return []


def _say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)
