"""GQA through lmms-eval: testdev balanced.

Source: Hudson and Manning 2019 (GQA).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hermesflow.evaluation.benchmark import UNDERSTANDING, Column, LmmsBenchmark, Task

if TYPE_CHECKING:
    from hermesflow.evaluation.lmms.run import Row, Run, Sample


def rows(run: Run, task: str, samples: Sequence[Sample]) -> list[Row]:
    """Whether each question is answered rightly."""
    return [("gqa", "gqa", run.image(task, one), float(one["exact_match"]), 1) for one in samples]


BENCHMARK = LmmsBenchmark(
    name="gqa",
    order=50,
    paper=True,
    tasks={"gqa": Task(398, 12_578, 16)},
    rows=rows,
    printed={"gqa": ("gqa", "exact_match,none")},
    columns={UNDERSTANDING: (Column("gqa", "GQA", "gqa", 100.0, quoted="gqa"),)},
)
