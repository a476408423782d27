"""What a checkpoint inherits from its place in the tree: settings, iteration, reference.

Code of this package that decides results: it counts in the digests of `hermesflow.config.digests`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from hermesflow.config.experiment import BASE, Config
from hermesflow.config.sections import Training


def training_of(config: Config, checkpoint: str) -> Training:
    """The training section of one checkpoint: the section `training` with the checkpoint's overrides."""
    overrides = config.checkpoints[checkpoint]
    keys = ("steps", "learning_rate", "beta", "chosen_nll_weight")
    changed = {key: value for key in keys if (value := getattr(overrides, key)) is not None}
    return replace(config.training, **changed)


class Reference(NamedTuple):
    """What log-probs of a reference are made from beside the seed: trainings that agree in it share them."""

    checkpoint: str
    """The frozen model, whose scored candidates the pairs come from."""
    candidates: int | None
    """Only the first so many; None is all."""
    steps: int
    """Of training: how many rows it meets."""


def reference_of(config: Config, checkpoint: str) -> Reference:
    """The reference that a checkpoint is trained against."""
    entry = config.checkpoints[checkpoint]
    return Reference(entry.parent, entry.candidates, training_of(config, checkpoint).steps)


def sampled_checkpoints(config: Config) -> tuple[str, ...]:
    """Checkpoints that others grow from, base first: the ones to sample from."""
    return tuple(dict.fromkeys([BASE, *(entry.parent for entry in config.checkpoints.values())]))


def iteration(config: Config, checkpoint: str) -> int:
    """Self-play iterations between base (0) and a checkpoint."""
    return 0 if checkpoint == BASE else 1 + iteration(config, config.checkpoints[checkpoint].parent)


def generations_after(config: Config, checkpoint: str) -> int:
    """Length of the longest line of checkpoints that grow from this one; 0 where none does."""
    children = [name for name, entry in config.checkpoints.items() if entry.parent == checkpoint]
    return max((1 + generations_after(config, child) for child in children), default=0)
