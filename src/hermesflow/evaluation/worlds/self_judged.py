"""What can be measured on pairs that no independent judge reads: the model answers about real and drawn images itself.

Protocol `self` of the gap: the same questions about the real image and about the one drawn from its caption, answered
by the checkpoint itself and mapped to the nearest choice on both sides. The paper has GPT-4o for drawn images; a model
that judges what it drew itself may overrate it, so this protocol stands under a name of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from hermesflow.evaluation.worlds.gap import PairQuestion
from hermesflow.evaluation.worlds.understanding import ANSWER_COLUMNS

SIDES = {
    "gap/self/understanding": ("understanding",),
    "gap/self/generation": ("generation",),
    "gap/self/both_right": ("understanding", "generation"),
}
"""Metric and the columns of `gap_table` that must be true."""


def gap_table(questions: Sequence[PairQuestion], *, real: Sequence[str], generated: Sequence[str]) -> pd.DataFrame:
    """Grade both sides of every question.

    Args:
        questions: Q questions.
        real: Q choices, the model's answers on the real images.
        generated: Q choices, its answers on the images it drew.

    Returns:
        One row per question: id, kind, question, answer, said_of_real, said_of_drawn, and the booleans understanding
        and generation.
    """
    rows = [
        (
            *(one.id, one.question.kind, one.question.question, one.question.answer, on_real, on_generated),
            *(on_real == one.question.answer, on_generated == one.question.answer),
        )
        for one, on_real, on_generated in zip(questions, real, generated, strict=True)
    ]
    columns = ["id", "kind", "question", "answer", "said_of_real", "said_of_drawn", "understanding", "generation"]
    return pd.DataFrame(rows, columns=columns)


def answer_table(questions: Sequence[PairQuestion], choices: Sequence[str]) -> pd.DataFrame:
    """Questions about held-out real images and the choices nearest to the model's answers, as benchmark `vqa`."""
    rows = [
        ("vqa", one.question.kind, one.id, one.question.question, one.question.answer, choice)
        for one, choice in zip(questions, choices, strict=True)
    ]
    table = pd.DataFrame(rows, columns=list(ANSWER_COLUMNS)[:-1])
    return table.assign(right=table["prediction"] == table["answer"])


def plain_words(text: str) -> str:
    """Lower-case words without punctuation, between spaces: what CIDEr counts (PTB's tokenizer needs Java)."""
    return " ".join(re.findall(r"[\w'-]+", text.lower()))
