"""POPE through lmms-eval: is there such an object in the image? Three ways of choosing the objects that are not.

One figure is not lmms-eval's: its `pope_yes_ratio` is the share of "yes" in the truth (0.5 by design), so that of the
answers is counted here.

Source: Li et al. 2023 (POPE: 500 images, 6 questions each, three settings).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hermesflow.core.errors import ArtifactError
from hermesflow.evaluation.benchmark import ABLATION, UNDERSTANDING, Column, LmmsBenchmark, Task

if TYPE_CHECKING:
    from hermesflow.evaluation.lmms.run import Row, Run, Sample

SPLITS = {"pope_random": "random", "pope_pop": "popular", "pope_adv": "adversarial"}
"""Task to the setting it is of."""
_FIGURES = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1_score"}
"""Figure to lmms-eval's name of it."""


def rows(run: Run, task: str, samples: Sequence[Sample]) -> list[Row]:
    """Numerators and denominators of every question of a task."""
    return [row for one in samples for row in _rows(SPLITS[task], run.image(task, one), one["pope_accuracy"])]


def _rows(split: str, image: str, sample: Sample) -> list[Row]:
    """Numerators and denominators of one question: accuracy, precision, recall, F1 and yes-ratio.

    F1 = 2 TP / (answers "yes" + truths "yes"), which is the harmonic mean of precision and recall.
    """
    from hermesflow.evaluation.lmms.run import AGAIN

    prediction, truth = sample["prediction"], sample["ground_truth"]
    if prediction not in ("yes", "no"):
        raise ArtifactError(
            f"POPE, {split}, question {sample['question_id']}: the answer {prediction!r} is not read. {AGAIN}"
        )
    hit = prediction == truth == "yes"
    parts = {
        "accuracy": (prediction == truth, 1),
        "precision": (hit, prediction == "yes"),
        "recall": (hit, truth == "yes"),
        "f1": (2 * hit, (prediction == "yes") + (truth == "yes")),
        "yes_ratio": (prediction == "yes", 1),
    }
    return [(f"pope/{split}/{name}", "pope", image, float(n), float(d)) for name, (n, d) in parts.items()]


def read_answer(answer: str) -> str:
    """`yes` or `no`: POPE's reading of a free answer, which takes its first sentence alone.

    lmms-eval's POPE compares the whole answer with `yes` and `no`, so that "Yes." would count as wrong; its other
    tasks read answers themselves.

    Source: Li et al. 2023 (POPE), evaluate.py of the release.
    """
    from hermesflow.evaluation.worlds.understanding import yes_or_no

    return yes_or_no(answer.partition(".")[0])


def unread(answer: str, record: Any) -> bool:
    """Whether the first sentence has neither yes nor no, which POPE takes for yes."""
    words = answer.partition(".")[0].lower().replace(",", " ").split()
    return not {"yes", "no", "not"} & set(words)


_POPE = Column("pope", "POPE", "pope/accuracy", 100.0, quoted="pope")

BENCHMARK = LmmsBenchmark(
    name="pope",
    order=10,
    paper=True,
    tasks=dict.fromkeys(SPLITS, Task(500, 3_000, 128)),
    rows=rows,
    read_answer=read_answer,
    unread=unread,
    printed={
        f"pope/{split}/{figure}": (task, f"pope_{name},none")
        for task, split in SPLITS.items()
        for figure, name in _FIGURES.items()
    },
    columns={UNDERSTANDING: (_POPE,), ABLATION: (_POPE,)},
)
