"""Sizes of the real benchmarks, as published: the plan is made before their files are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hermesflow.config.experiment import Config
from hermesflow.evaluation.benchmark import Task
from hermesflow.evaluation.prompts import TOGETHER
from hermesflow.evaluation.registry import image_benchmark, lmms_benchmark


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
    """What is generated for each benchmark of a config."""
    sizes = {}
    for name in config.benchmarks.image_benchmarks if config.benchmarks else ():
        one = image_benchmark(name)
        prompts = config.data.gap_pairs if one.prompts is None else one.prompts
        sizes[name] = Drawing(prompts, one.images(one.settings(config.benchmarks)))
    return sizes


def tasks_of(config: Config, columns: Sequence[str] | None = None) -> list[Task]:
    """The tasks of benchmarks columns of a config; of all that it has where none are named."""
    section = config.benchmarks
    if section is None or section.understanding is None:
        return []
    benchmarks = [lmms_benchmark(column) for column in columns or section.columns]
    return [one.tasks[task] for one in benchmarks for task in one.tasks_wanted(section.understanding)]
