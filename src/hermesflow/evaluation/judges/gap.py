"""The gap on real data, where an outside judge sees what the pixel judge of the micro world cannot.

The protocols are those of `evaluation.gap`, and so are the columns of their tables. `paper`: understanding is the
model's answer on the real image, mapped to the nearest choice; generation is the judge's answer on the drawn image.
`same-judge`: the judge's reading is the rule on both sides. It answers the question about the real image, and says,
from the text alone, which choice the model's answer means: both must be one choice. And what it answers about the
drawn image must be the right choice. What the judge cannot see costs both sides then, not generation alone.
The micro world compares the model's words with the judge's reading as strings; free words of real answers ("two dogs
are running") need a reader, and who reads is the judge again. An answer that is one of the choices letter by letter is
that choice, and no judge is asked; an empty one means none.
Source: HermesFlow section 4.3 and Table 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hermesflow.core.errors import DataError
from hermesflow.data.questions.rows import plain
from hermesflow.evaluation.judges.protocol import Item, Judge, Verdict, outcome_counts
from hermesflow.evaluation.worlds.gap import Asked

EVIDENCE = ("drawn", "real", "said")
"""What the judge is asked about: the drawn image, the real image, what the model said about the real image."""


@dataclass(frozen=True)
class Judged:
    """Verdicts of Q questions on each kind of evidence."""

    drawn: Sequence[Verdict]
    real: Sequence[Verdict]
    said: Sequence[Verdict]


def ask(
    judge: Judge, asked: Sequence[Asked], *, free: Sequence[str], real: Mapping[str, bytes], drawn: Mapping[str, bytes]
) -> Judged:
    """Put all three kinds of questions to a judge, in one call.

    Args:
        judge: who answers.
        asked: Q questions.
        free: Q free answers of the model on the real image.
        real: id -> PNG of the real image.
        drawn: id -> PNG of the image drawn from its caption.

    Raises:
        DataError: an image is missing, or a question cannot be asked.
        JudgeError: the judge does not answer.
    """
    on_images = about_images(asked, real=real, drawn=drawn)
    literal = [literal_verdict(one, text) for one, text in zip(asked, free, strict=True)]
    on_said = [_item(one, text) for one, text, known in zip(asked, free, literal, strict=True) if known is None]
    verdicts = iter(judge.judge([*on_images, *on_said]))
    first = [next(verdicts) for _ in asked]
    second = [next(verdicts) for _ in asked]
    return Judged(first, second, [known or next(verdicts) for known in literal])


def about_images(asked: Sequence[Asked], *, real: Mapping[str, bytes], drawn: Mapping[str, bytes]) -> list[Item]:
    """The 2 x Q items with images: Q about the drawn ones, then Q about the real ones.

    Args:
        asked: Q questions.
        real: id -> PNG of the real image.
        drawn: id -> PNG of the image drawn from its caption.

    Raises:
        DataError: an image is missing.
    """
    return _about(asked, drawn, "drawn") + _about(asked, real, "real")


def literal_verdict(asked: Asked, text: str) -> Verdict | None:
    """What needs no judge: an answer that is one of its choices but for letter case and spaces, or no answer at all."""
    if not text.strip():
        return Verdict(asked.id, "unreadable", None, text)
    choice = next((one for one in asked.question.choices if plain(one) == plain(text)), None)
    return None if choice is None else Verdict(asked.id, "chosen", choice, text)


def gap_table(asked: Sequence[Asked], *, free: Sequence[str], nearest: Sequence[str], judged: Judged) -> pd.DataFrame:
    """Grade both sides of every question.

    Args:
        asked: Q questions.
        free: Q free answers of the model on the real image.
        nearest: Q choices nearest to them.
        judged: what the judge made of them.

    Returns:
        One row per question: id, kind, question, answer, free, nearest, judge_real, judge_said, judge_drawn (None: no
        choice, which is wrong), their outcomes real_outcome, said_outcome, drawn_outcome, and the booleans
        understanding_paper, understanding_same_judge, generation. `evaluation.gap.gap_units` takes it as it is.
    """
    rows = []
    columns = zip(asked, free, nearest, judged.real, judged.said, judged.drawn, strict=True)
    for one, text, choice, real, said, drawn in columns:
        question = one.question
        rows.append(
            {
                "id": one.id,
                "kind": question.kind,
                "question": question.question,
                "answer": question.answer,
                "free": text,
                "nearest": choice,
                "judge_real": real.choice,
                "judge_said": said.choice,
                "judge_drawn": drawn.choice,
                "real_outcome": real.outcome,
                "said_outcome": said.outcome,
                "drawn_outcome": drawn.outcome,
                "understanding_paper": choice == question.answer,
                "understanding_same_judge": real.choice is not None and said.choice == real.choice,
                "generation": drawn.choice == question.answer,
            }
        )
    return pd.DataFrame(rows)


def judge_facts(asked: Sequence[Asked], judged: Judged) -> dict[str, dict[str, float]]:
    """What the tables say about the judge, per kind of evidence.

    Returns:
        `drawn`, `real` and `said`, each with `questions` and the number of each outcome; `real` with `accuracy` too:
        how often the judge is right about real images, below which neither side of the gap can be trusted.
    """
    facts: dict[str, dict[str, float]] = {}
    for kind in EVIDENCE:
        verdicts: Sequence[Verdict] = getattr(judged, kind)
        facts[kind] = {"questions": len(verdicts)}
        facts[kind].update({str(outcome): count for outcome, count in outcome_counts(verdicts).items()})
    right = sum(v.choice == one.question.answer for one, v in zip(asked, judged.real, strict=True))
    facts["real"]["accuracy"] = right / len(asked) if asked else 0.0
    return facts


def _about(asked: Sequence[Asked], images: Mapping[str, bytes], kind: str) -> list[Item]:
    missing = sorted({one.id for one in asked} - set(images))
    if missing:
        raise DataError(
            f"pair {missing[0]} of split gap has no {kind} image ({len(missing)} pairs in all). Run the step that "
            "makes it again."
        )
    return [_item(one, images[one.id]) for one in asked]


def _item(asked: Asked, evidence: bytes | str) -> Item:
    question = asked.question
    return Item(asked.id, evidence, question.question, tuple(question.choices), question.answer)
