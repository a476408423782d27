"""Sizes of the real benchmarks, as published: the plan is made before their files are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hermesflow.config.experiment import Config
from hermesflow.evaluation.benchmarks import dpg, fidelity
from hermesflow.evaluation.benchmarks.drawing import TOGETHER
from hermesflow.evaluation.lmms.running import KARPATHY_TASK, SUBMISSION_TASK, tasks_wanted

PROMPTS = {"geneval": 553, "dpg": dpg.PROMPTS, "coco": fidelity.IMAGES, "geneval2": 800}
"""Prompts of each file. Source: Ghosh et al. 2023 (GenEval); Hu et al. 2024 (DPG-Bench); the paper's Table 3; Kamath et
al. 2025 (GenEval 2)."""


@dataclass(frozen=True)
class Task:
    """One of lmms-eval's tasks."""

    pictures: int
    questions: int
    tokens: int
    """At most so many new tokens an answer: `max_new_tokens` of the task in lmms-eval 0.7.3."""

    @property
    def each(self) -> int:
        """Questions about a picture, rounded up."""
        return -(-self.questions // self.pictures)


_POPE = Task(500, 3_000, 128)
TASKS = {
    "pope_random": _POPE,
    "pope_pop": _POPE,
    "pope_adv": _POPE,
    "mme": Task(1_187, 2_374, 16),
    "flickr30k_test": Task(31_783, 31_783, 64),
    KARPATHY_TASK: Task(1_000, 1_000, 64),
    "vqav2_val": Task(40_504, 214_354, 16),
    SUBMISSION_TASK: Task(81_434, 447_793, 16),
    "gqa": Task(398, 12_578, 16),
    "mmmu_val": Task(900, 900, 128),
}
"""Source: Li et al. 2023 (POPE: 500 images, 6 questions each, three settings); Fu et al. 2023 (MME); Young et al. 2014
(Flickr30k) and Karpathy and Fei-Fei 2015; Goyal et al. 2017 (VQAv2); Hudson and Manning 2019 (GQA, testdev balanced);
Yue et al. 2024 (MMMU, validation; of questions with several pictures the first is seen)."""


@dataclass(frozen=True)
class Drawing:
    """Images of one benchmark."""

    prompts: int
    images: int
    """Of each prompt."""

    @property
    def total(self) -> int:
        """Images of all prompts."""
        return self.prompts * self.images

    @property
    def together(self) -> int:
        """Prompts of a batch."""
        return min(max(TOGETHER // self.images, 1), self.prompts)


def drawings(config: Config) -> dict[str, Drawing]:
    """What is drawn for each benchmark of a config."""
    own = config.benchmarks
    prompts = {**PROMPTS, "gap": config.data.gap_pairs}
    return {name: Drawing(prompts[name], getattr(getattr(own, name), "images", 1)) for name in own.drawn} if own else {}


def tasks_of(config: Config, columns: Sequence[str] | None = None) -> list[Task]:
    """The tasks of some columns of a config; of all that it has where none are named."""
    own = config.benchmarks
    if own is None or own.understanding is None:
        return []
    return [TASKS[task] for column in columns or own.columns for task in tasks_wanted(own.understanding, column)]
