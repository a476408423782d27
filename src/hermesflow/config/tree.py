"""What a checkpoint inherits from its place in the tree: settings, iteration, reference.

Code of this package that decides results: it counts in the digests of `hermesflow.config.digests`.
"""

from __future__ import annotations

from dataclasses import replace

from hermesflow.config.experiment import BASE, Config
from hermesflow.config.sections import Training


def training_of(config: Config, checkpoint: str) -> Training:
    """The training section of one checkpoint: the section `training` with the checkpoint's overrides."""
    overrides = config.checkpoints[checkpoint]
    keys = ("steps", "learning_rate", "beta", "chosen_nll_weight")
    changed = {key: value for key in keys if (value := getattr(overrides, key)) is not None}
    return replace(config.training, **changed)


def reference_of(config: Config, checkpoint: str) -> str:
    """The first checkpoint with the same reference on the same pairs: its log-probs are this one's too."""

    def rests_on(name: str) -> tuple[object, ...]:
        entry = config.checkpoints[name]
        return entry.parent, entry.candidates, training_of(config, name).steps

    return next(name for name in config.checkpoints if rests_on(name) == rests_on(checkpoint))


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
