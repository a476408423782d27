"""MME through lmms-eval: pairs of yes-or-no questions about a picture, in fourteen categories.

MME's accuracy and accuracy+ are summed by lmms-eval and kept apart here.

Source: Fu et al. 2023 (MME).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hermesflow.evaluation.benchmark import ABLATION, UNDERSTANDING, Column, LmmsBenchmark, Task

if TYPE_CHECKING:
    from hermesflow.evaluation.lmms.run import Row, Run, Sample


def rows(run: Run, task: str, samples: Sequence[Sample]) -> list[Row]:
    """Accuracy and accuracy+ (both questions right), times 100, of each picture of each category."""
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for sample in samples:
        one = sample.get("mme_perception_score") or sample["mme_cognition_score"]
        scores[one["category"], one["question_id"], run.image(task, sample)].append(float(one["score"]))
    graded: list[Row] = []
    for (category, _, image), both in scores.items():
        graded.append((f"mme/{category}/accuracy", "mme", image, 100 * sum(both) / len(both), 1))
        graded.append((f"mme/{category}/accuracy_plus", "mme", image, 100.0 * (sum(both) == len(both)), 1))
    return graded


def unread(answer: str, record: Any) -> bool:
    """Whether lmms-eval reads neither yes nor no in an answer, which is wrong then; needs lmms-eval."""
    from lmms_eval.tasks.mme.utils import parse_pred_ans

    return bool(parse_pred_ans(answer) == "other")


_PERCEPTION = Column("mme", "MME perception", "mme/perception", quoted="mme")

BENCHMARK = LmmsBenchmark(
    name="mme",
    order=20,
    paper=True,
    tasks={"mme": Task(1_187, 2_374, 16)},
    rows=rows,
    unread=unread,
    printed={
        "mme/perception": ("mme", "mme_perception_score,none"),
        "mme/cognition": ("mme", "mme_cognition_score,none"),
    },
    columns={
        UNDERSTANDING: (_PERCEPTION, Column("mme_cognition", "MME cognition", "mme/cognition")),
        ABLATION: (_PERCEPTION,),
    },
)
