"""What a judge is: it answers multiple-choice questions about an image, or about what somebody said of one.

A judge may refuse, or say that it cannot tell. Both are verdicts, not accidents: they grade as wrong and are counted.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from hermesflow.core.errors import DataError
from hermesflow.data.questions.rows import plain

Outcome = Literal["chosen", "cannot tell", "refused", "unreadable", "cut short"]
"""`unreadable`: a text that does not name exactly one of the choices. `cut short`: one that ended with the tokens
allowed, before it named one."""
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Item:
    """One question with the evidence it is to be answered from."""

    id: str
    """Of the pair; several items may share it."""
    evidence: bytes | str
    """PNG bytes of an image; or a text: what somebody answered about an image that is not shown."""
    question: str
    choices: tuple[str, ...]
    answer: str
    """The right choice; the judge never sees it."""


@dataclass(frozen=True)
class Verdict:
    """What a judge made of an item."""

    id: str
    outcome: Outcome
    choice: str | None
    """The item's choice as it is spelled there; None unless the outcome is `chosen`."""
    text: str
    """What the judge wrote."""


class Judge(Protocol):
    """Answers questions from evidence alone."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, in their order.

        Raises:
            DataError: an item cannot be asked; nothing has been asked then.
            JudgeError: the judge cannot be asked.
        """


def outcome_counts(verdicts: Iterable[Verdict]) -> dict[Outcome, int]:
    """How often each outcome occurs, also where it never does."""
    outcomes = [verdict.outcome for verdict in verdicts]
    return {outcome: outcomes.count(outcome) for outcome in get_args(Outcome)}


def check_items(items: Sequence[Item]) -> None:
    """Look at all items before the first is asked.

    Raises:
        DataError: evidence that is neither PNG nor text, choices that are not two or more different ones, or an
            answer that is none of them.
    """
    for item in items:
        place = f"pair {item.id}, question {item.question!r}"
        if isinstance(item.evidence, bytes) and not item.evidence.startswith(_PNG):
            raise DataError(f"{place}: the image is not PNG. Encode it with judging.protocol.png_bytes.")
        if len(item.choices) < 2 or len({plain(choice) for choice in item.choices}) < len(item.choices):
            raise DataError(f"{place}: {list(item.choices)} are not two or more different choices. Mend or remove it.")
        if item.answer not in item.choices:
            raise DataError(
                f"{place}: the answer {item.answer!r} is none of the choices {list(item.choices)}. Spell it as its "
                "choice, or remove the question."
            )


def png_bytes(image: np.ndarray) -> bytes:
    """An (H, W, 3) uint8 image as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()
