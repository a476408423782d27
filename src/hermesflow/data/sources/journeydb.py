"""JourneyDB's training set: annotations and image shards, streamed from the hub or from a local copy.

What was confirmed about the layout, and what is assumed: docs/decisions/0007-journeydb-and-questions.md.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hermesflow.config.data import JourneyDb
from hermesflow.core import hub
from hermesflow.core.errors import DataError
from hermesflow.data.questions.rows import Unusable, plain, question_row
from hermesflow.data.sources.drawing import Candidate, Rejected
from hermesflow.data.sources.streams import Member, files_in, reading, tar_files

ANNOTATIONS = "data/train/train_anno_realease_repath.jsonl"
"""The annotations whose paths are those of the shards (JourneyDB/JourneyDB, issues 12 and 15); spelled so."""
IMAGES = "data/train/imgs"
_TASKS = ("Task3", "Task4")
_LABEL = re.compile(r"\(?([A-Z])[.):]+\s*(.*)", re.DOTALL)


class JourneyDbSource:
    """Records and images of JourneyDB.

    Args:
        settings: where it is and which shards to use.
        downloads: folder for files from the hub; an image shard is removed when it has been read.

    Raises:
        DataError: the path is that of a file.
        ConfigError: no local copy, and no pinned revision on the hub.
    """

    def __init__(self, settings: JourneyDb, *, downloads: Path) -> None:
        if Path(settings.path).is_file():
            raise DataError(f"{settings.path}: is a file; name the folder that holds data/train in data.path.")
        self._shards = frozenset(settings.shards)
        self._downloads = downloads
        self._local = Path(settings.path) if Path(settings.path).is_dir() else None
        self._hub = None if self._local else hub.open_dataset(settings.path, settings.revision)

    @property
    def origin(self) -> dict[str, Any]:
        """The repository and its commit; a local copy cannot say which it is."""
        where = {"repository": self._hub.name, "commit": self._hub.revision} if self._hub else {}
        return {"source": "journeydb", "shards": sorted(self._shards), **where}

    def records(self) -> Iterator[Candidate | Rejected]:
        """All records of the shards in use, in file order; lines that are not JSON or name no image are set aside."""
        name = PurePosixPath(ANNOTATIONS).name
        with self._open(ANNOTATIONS, (".tgz", ""), keep=True) as path, _lines(path) as lines:
            for number, line in enumerate(lines, start=1):
                record = _record_of(line, name, number)
                if isinstance(record, Rejected) or not self._shards or record.shard in self._shards:
                    yield record

    def images(self, shard: str, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Images of one shard by their path in it, in one pass that ends with the last of them."""
        with self._open(f"{IMAGES}/{shard}", (".tgz", ".tar", "")) as path:
            if path.is_dir():  # unpacked by hand
                yield from files_in(path.parent, members)
                return
            yield from tar_files(path, members)

    def own_questions(self, candidate: Candidate) -> tuple[list[dict[str, Any]], Counter[str]]:
        """JourneyDB's own questions about style and content, and why others were dropped."""
        rows: list[dict[str, Any]] = []
        dropped: Counter[str] = Counter()
        for kind, item in candidate.questions:
            try:
                rows.append(_question(item, kind))
            except Unusable as error:
                dropped[str(error)] += 1
        return rows, dropped

    @contextmanager
    def _open(self, name: str, endings: tuple[str, ...], *, keep: bool = False) -> Iterator[Path]:
        """A file of the data set; one from the hub has the first ending and is removed once it has served."""
        if self._hub is not None:
            path = hub.fetch_file(self._hub, name + endings[0], self._downloads)
            yield path
            if not keep:
                path.unlink(missing_ok=True)
            return
        assert self._local is not None
        paths = [path for ending in endings if (path := self._local / (name + ending)).exists()]
        if not paths:
            raise DataError(
                f"{self._local / (name + endings[0])}: missing in this local copy of JourneyDB. Copy it, let "
                "data.shards name the shards that are there, or correct data.path (the folder with `data/train`)."
            )
        yield paths[0]


open_source = JourneyDbSource
"""Found by this name (`data.sources.real_pairs`)."""


def _record_of(line: bytes, name: str, number: int) -> Candidate | Rejected:
    try:
        record = json.loads(line)
        parts = PurePosixPath(record["img_path"]).parts
        shard, member = parts[-2], PurePosixPath(*parts[-2:])
    except (ValueError, RecursionError) as error:
        return Rejected("", name, number, f"broken JSON ({type(error).__name__})")
    except (KeyError, TypeError, IndexError):
        shard = ""
    if not re.fullmatch("[0-9]+", shard):
        return Rejected("", name, number, "no img_path `./SHARD/IMAGE`")
    task, prompt = record.get("Task2"), record.get("prompt")
    caption = (task.get("Caption") if isinstance(task, Mapping) else None) or ""
    id_ = member.with_suffix("").as_posix()
    if not isinstance(caption, str):
        return Rejected(id_, name, number, "a caption that is no text")
    return Candidate(
        id=id_,
        caption=caption.strip(),
        file=name,
        record=number,
        shard=shard,
        member=member.as_posix(),
        questions=_raw_questions(record),
        prompt=prompt if isinstance(prompt, str) else "",
    )


def _raw_questions(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(kind, item) of every question: groups are called "Style Relevant Questions and Answers" and "Content ..."."""
    groups = [group for task in _TASKS if isinstance(record.get(task), Mapping) for group in record[task].items()]
    lists = [(name, items if isinstance(items, list) else [items]) for name, items in groups if items is not None]
    return [(name.partition(" ")[0].lower(), item) for name, items in lists for item in items]


def _question(item: Any, kind: str) -> dict[str, Any]:
    """A question whose options are a list or `{letter: text}`, and whose answer is a letter, a text, or both."""
    if not isinstance(item, Mapping):
        raise Unusable("not a question with options and answer")
    options, answer = item.get("Options"), item.get("Answer")
    lettered = options if isinstance(options, Mapping) else {}
    choices = list(lettered.values()) if lettered else options
    if isinstance(answer, str) and isinstance(choices, list):
        answer = answer.strip()
        if plain(answer) not in {plain(choice) for choice in choices if isinstance(choice, str)}:
            label = _LABEL.fullmatch(answer)
            letter = label[1] if label else answer
            text = lettered.get(letter, answer)
            # "B. blue" must mean the option B that says blue
            answer = text if not (label and label[2]) or plain(str(text)) == plain(label[2]) else answer
    return question_row(item.get("Question"), choices, answer, kind)


@contextmanager
def _lines(path: Path) -> Iterator[IO[bytes]]:
    """The lines of a .jsonl file, or of the one in a tar."""
    with reading(path):
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                yield file
            return
        with tarfile.open(path, mode="r|*", tarinfo=Member) as tar:
            for info in tar:
                name = PurePosixPath(info.name).name
                file_ = tar.extractfile(info) if name.endswith(".jsonl") and not name.startswith("._") else None
                if file_ is not None:
                    yield file_
                    return
    raise DataError(f"{path}: holds no .jsonl file. Fetch or copy it again.")
