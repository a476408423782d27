"""MMMU through lmms-eval: its validation split; of questions with several pictures the first is seen.

Source: Yue et al. 2024 (MMMU).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hermesflow.evaluation.benchmark import ABLATION, UNDERSTANDING, Column, LmmsBenchmark, Task

if TYPE_CHECKING:
    from hermesflow.evaluation.lmms.run import Row, Run, Sample


def rows(run: Run, task: str, samples: Sequence[Sample]) -> list[Row]:
    """Whether each question is answered rightly."""
    right = mmmu_right([one["mmmu_acc"] for one in samples])
    return [("mmmu", "mmmu", run.image(task, s), float(right[s["mmmu_acc"]["id"]]), 1) for s in samples]


def mmmu_right(samples: Sequence[Sample]) -> dict[str, bool]:
    """Which questions are answered rightly, by id, as lmms-eval judges them; needs lmms-eval."""
    from lmms_eval.tasks.mmmu.utils import evaluate_mmmu

    verdicts, _ = evaluate_mmmu(list(samples))
    return {key: verdict == "Correct" for key, verdict in verdicts.items()}


def unread(answer: str, record: Mapping[str, Any]) -> bool:
    """Whether lmms-eval guesses which choice an answer means: it draws a random number then; needs lmms-eval."""
    from lmms_eval.tasks.mmmu.utils import mmmu_process_results

    state = random.getstate()
    mmmu_process_results(record, [answer])
    guessed = random.getstate() != state
    random.setstate(state)
    return guessed


_MMMU = Column("mmmu", "MMMU val", "mmmu", 100.0, quoted="mmmu")

BENCHMARK = LmmsBenchmark(
    name="mmmu",
    order=60,
    paper=True,
    tasks={"mmmu_val": Task(900, 900, 128)},
    rows=rows,
    unread=unread,
    printed={"mmmu": ("mmmu_val", "mmmu_acc,none")},
    columns={UNDERSTANDING: (_MMMU,), ABLATION: (_MMMU,)},
)
