"""Prompts that a checkpoint generates a benchmark's images from, in an order that never changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hermesflow.core.errors import DataError

if TYPE_CHECKING:
    from hermesflow.evaluation.worlds.generation import Request

Record = TypeVar("Record")
TOGETHER = 250  # images of a batch, whole prompts: what is kept at once, and dealt to shards


@dataclass(frozen=True)
class Prompts:
    """What a checkpoint generates for one benchmark."""

    benchmark: str
    ids: tuple[str, ...]
    """One per prompt, unique."""
    texts: tuple[str, ...]
    images: int
    """Of each prompt."""

    @property
    def batch(self) -> int:
        """Prompts whose images are generated together."""
        return max(TOGETHER // self.images, 1)

    @property
    def digest(self) -> str:
        """Of what is generated: ids alone do not tell texts apart where they are numbers."""
        from hermesflow.core.files import digest_of

        return digest_of([self.ids, self.texts, self.images])

    def requests(self, ids: list[str]) -> list[Request]:
        """The images of some prompts; the random numbers of each come from benchmark, prompt and number."""
        from hermesflow.evaluation.worlds.generation import Request

        text_of = dict(zip(self.ids, self.texts, strict=True))
        return [Request(f"{self.benchmark}/{id_}", k, text_of[id_]) for id_ in ids for k in range(self.images)]


def json_lines(path: Path) -> list[str]:
    """Lines of a file of JSON objects; other ends of a line than the usual ones may stand in their texts."""
    return path.read_text(encoding="utf-8-sig").split("\n")


def decoded(text: str) -> Any:
    """A value in JSON, without what would be lost or could not be written again.

    Raises:
        ValueError: not JSON, a key that is there twice in an object, or half of a surrogate pair.
    """
    value = json.loads(text, object_pairs_hook=_object)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(keys := dict(pairs)) < len(pairs):
        raise ValueError(f"one of the keys {', '.join(keys)} is there twice")
    return keys


def read_json_lines(path: Path, record: Callable[[Any], Record], *, original: str) -> list[Record]:
    """Records of a benchmark's own file, one JSON object a line.

    Args:
        path: the file.
        record: makes a record of a decoded line; what it raises says what is wrong.
        original: the file's name, and whose it is.

    Raises:
        DataError: unreadable, empty, or a line of another form.
    """
    try:
        lines = json_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Name {original}.") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records += [record(decoded(line))] if line.strip() else []
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: is not a line of {original} ({type(error).__name__}: {error}). Take the file "
                "of the original repository, or correct the line."
            ) from error
    if not records:
        raise DataError(f"{path}: holds no prompts. Take {original} from the original repository.")
    return records
