"""The gap between understanding and generation on held-out homologous pairs, by two protocols.

`paper`: understanding is the model's answer on the real image, mapped to the nearest choice; generation is the
judge's answer on the one image drawn from the caption (GPT-4o in the paper, the pixel judge here). The two sides are
graded by different rules. `same-judge`: the pixel judge's reading is the rule on both sides: the model's answer as it
stands must be what the judge reads off the real image, and what the judge reads off the drawn image must be what the
caption says.

Both right: the share of questions whose answer is right on both sides, about the real image and on the one generated
from its caption. Two models of equal sides may differ in it: the sides alone do not tell whether a model generates
what it understands.

Source: HermesFlow section 4.3 and Table 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hermesflow.core.errors import DataError
from hermesflow.data.worlds.questions import Question
from hermesflow.data.worlds.scenes import Scene
from hermesflow.evaluation.worlds.understanding import units_table

POOL = "gap"
SIDES = {
    "gap/paper/understanding": ("understanding_paper",),
    "gap/paper/generation": ("generation",),
    "gap/paper/both_right": ("understanding_paper", "generation"),
    "gap/same-judge/understanding": ("understanding_same_judge",),
    "gap/same-judge/generation": ("generation",),
    "gap/same-judge/both_right": ("understanding_same_judge", "generation"),
}
"""Metric and the columns of `gap_table` that must be true: it is the share of questions where all are."""


@dataclass(frozen=True)
class PairQuestion:
    """One question about one pair."""

    id: str
    question: Question


def gap_table(
    questions: Sequence[PairQuestion],
    *,
    free: Sequence[str],
    nearest: Sequence[str],
    real: Mapping[str, Scene],
    generated: Mapping[str, Scene],
    read: Callable[[Scene, Question], str | None],
) -> pd.DataFrame:
    """Grade both sides of every question.

    Args:
        questions: Q questions.
        free: Q free answers of the model on the real image.
        nearest: Q choices nearest to them.
        real: id -> what the judge reads off the real image.
        generated: id -> what the judge reads off the image drawn from the caption.
        read: the judge's answer to a question about what it read.

    Raises:
        DataError: a question that the judge has no rule for.

    Returns:
        One row per question: id, kind, question, answer, free, nearest, judge_real, judge_drawn (None: cannot tell,
        which is wrong) and the booleans understanding_paper, understanding_same_judge, generation.
    """
    rows = []
    for one, answer, choice in zip(questions, free, nearest, strict=True):
        question = one.question
        on_real, on_generated = _read(one, real, read), _read(one, generated, read)
        rows.append(
            {
                "id": one.id,
                "kind": question.kind,
                "question": question.question,
                "answer": question.answer,
                "free": answer,
                "nearest": choice,
                "judge_real": on_real,
                "judge_drawn": on_generated,
                "understanding_paper": choice == question.answer,
                "understanding_same_judge": on_real is not None and " ".join(answer.lower().split()) == on_real,
                "generation": on_generated == question.answer,
            }
        )
    return pd.DataFrame(rows)


def gap_units(
    table: pd.DataFrame, captions: Mapping[str, str], sides: Mapping[str, tuple[str, ...]] = SIDES
) -> pd.DataFrame:
    """Right answers and questions per caption, for each side and both together, by all protocols.

    Args:
        table: of `gap_table`.
        captions: by id. Pairs of one caption are one unit: what is hard about it is hard in all of them.
        sides: metric and the columns that must be true.
    """
    rows = []
    for metric, columns in sides.items():
        right = table[list(columns)].all(axis=1)
        sums = right.groupby(table["id"].map(captions), sort=True).agg(["sum", "count"])
        rows += [(metric, POOL, *row) for row in sums.itertuples()]
    return units_table(rows)


def _read(
    entry: PairQuestion, scenes: Mapping[str, Scene], read: Callable[[Scene, Question], str | None]
) -> str | None:
    try:
        return read(scenes[entry.id], entry.question)
    except ValueError as error:
        raise DataError(
            f"pair {entry.id} of split gap: {error} The judge must understand every question the gap is measured on; "
            "remove the question or put it as data/worlds/questions.py does."
        ) from error
