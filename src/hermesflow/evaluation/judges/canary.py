"""Questions whose verdict is known, put to a judge before it grades; see `graders.canaries`."""

from __future__ import annotations

import numpy as np

from hermesflow.evaluation.graders.canaries import COLORS, plain, stop
from hermesflow.evaluation.judges.protocol import Item, Judge, png_bytes


def try_judge(judge: Judge) -> None:
    """A judge of choices must tell plain colours apart and read what somebody else answered.

    Raises:
        ConfigError: it does not.
        JudgeError: it cannot be asked.
    """
    text = "What color is the picture?"
    items = [
        Item(f"a plain {color} picture", png_bytes(np.asarray(plain(color))), text, COLORS, color) for color in COLORS
    ]
    items.append(Item("an answer", "There is a dog in it.", "Which animal is there?", ("cat", "dog", "horse"), "dog"))
    for item, verdict in zip(items, judge.judge(items), strict=True):
        if verdict.choice != item.answer:
            stop(
                "the judge (benchmarks.gap.judge)",
                f"{item.answer} for {item.id}",
                f"{verdict.outcome}: {verdict.text[:200]!r}",
            )
