"""VQAv2 through lmms-eval: its validation split, and on request the file that the server of its test split takes.

Source: Goyal et al. 2017 (VQAv2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hermesflow.evaluation.benchmark import UNDERSTANDING, Column, LmmsBenchmark, Option, Task

if TYPE_CHECKING:
    from hermesflow.evaluation.lmms.run import Row, Run, Sample


def rows(run: Run, task: str, samples: Sequence[Sample]) -> list[Row]:
    """Returns one row per question with its VQA accuracy in [0, 1], as lmms-eval computes it (`exact_match`)."""
    return [("vqav2", "vqav2", run.image(task, one), float(one["exact_match"]), 1) for one in samples]


def normalised(answer: str) -> str:
    """An answer as VQA's evaluation normalises it, by lmms-eval's copy; needs lmms-eval.

    lmms-eval does so on val alone. The server of the test split compares what it is sent: where all ten people say
    "yes", "Yes." would count nothing.

    Source: Goyal et al. 2017 (VQAv2), vqaEval.py of the release.
    """
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    processor = EvalAIAnswerProcessor()
    plain = answer.replace("\n", " ").replace("\t", " ").strip()
    return str(processor.process_digit_article(processor.process_punctuation(plain)))


BENCHMARK = LmmsBenchmark(
    name="vqav2",
    order=40,
    paper=True,
    tasks={
        "vqav2_val": Task(40_504, 214_354, 16),
        "vqav2_test": Task(81_434, 447_793, 16, option="vqav2_submission", figures=False, read_answer=normalised),
    },
    rows=rows,
    target=lambda _: "",  # samples do not say
    printed={"vqav2": ("vqav2_val", "exact_match,none")},
    options=(
        Option(
            name="vqav2_submission",
            type=bool,
            default=True,
            meaning="Answer VQAv2's test split too, for the file that its server takes: 447,793 questions about "
            "81,434 pictures for each checkpoint, twice as many as val has, and no figure of any table comes of them.",
        ),
    ),
    columns={UNDERSTANDING: (Column("vqav2", "VQAv2", "vqav2", 100.0, quoted="vqa"),)},
)
