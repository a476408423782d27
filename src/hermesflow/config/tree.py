"""What a checkpoint inherits from its place in the tree: settings, iteration, reference.

Code of this package that decides results: it counts in the digests of `hermesflow.config.digests`.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import NamedTuple, TypeVar

from hermesflow.config.experiment import BASE, Config
from hermesflow.config.sections import Checkpoint, PairsKept, Preferences, RejectedFrom, Training
from hermesflow.core.errors import ConfigError

Section = TypeVar("Section", Training, Preferences)


def training_of(config: Config, checkpoint: str) -> Training:
    """The training section of one checkpoint: the section `training` with the checkpoint's overrides."""
    return _overridden(config.training, config.checkpoints[checkpoint])


def preferences_of(config: Config, checkpoint: str) -> Preferences:
    """The preferences section of one checkpoint: the section `preferences` with the checkpoint's overrides."""
    return _overridden(config.preferences, config.checkpoints[checkpoint])


def _overridden(section: Section, entry: Checkpoint) -> Section:
    names = {field.name for field in fields(section)} & {field.name for field in fields(entry)}
    return replace(section, **{name: value for name in names if (value := getattr(entry, name)) is not None})


class Reference(NamedTuple):
    """What log-probs of a reference are made from beside the seed: trainings that agree in it share them."""

    checkpoint: str
    """The frozen model, whose scored candidates the pairs come from."""
    candidates: int | None
    """Only the first so many; None is all."""
    steps: int
    """Of training: how many rows it meets."""
    pairs: PairsKept
    """Which of the homologous pairs are kept."""
    rejected: RejectedFrom
    """Where rejected answers come from; from base, which has no pairs of its own, it makes no difference."""
    mask_ratios: tuple[float, float]
    """Between which shares of image tokens are masked."""

    @property
    def variant(self) -> str:
        """All but the checkpoint as the name of a file; what is the paper's is left out: `all-3000`, `4-100-any`."""
        masked = "{}to{}".format(*self.mask_ratios) if self.mask_ratios != Training.mask_ratios else None
        parts = (self.candidates or "all", self.steps, self.pairs, self.rejected, masked)
        return "-".join(str(part) for part in parts if part not in ("both", "previous", None))


def reference_of(config: Config, checkpoint: str) -> Reference:
    """The reference that a checkpoint is trained against."""
    entry = config.checkpoints[checkpoint]
    training, preferences = training_of(config, checkpoint), preferences_of(config, checkpoint)
    rejected: RejectedFrom = "previous" if entry.parent == BASE else preferences.rejected
    return Reference(entry.parent, entry.candidates, training.steps, preferences.pairs, rejected, training.mask_ratios)


def read_variant(checkpoint: str, variant: str) -> Reference:
    """The reference that `Reference.variant` names.

    Raises:
        ConfigError: no such name.
    """
    share = r"\d+(\.\d+)?(e-\d+)?"
    parts = re.fullmatch(
        r"(?P<candidates>all|\d+)-(?P<steps>\d+)(-(?P<pairs>any))?(-(?P<rejected>fresh))?"
        rf"(-(?P<low>{share})to(?P<high>{share}))?",
        variant,
    )
    if parts is None:
        raise ConfigError(f"--variant {variant}: no reference is called so; take a name as `all-3000` or `4-100-any`.")
    candidates = None if parts["candidates"] == "all" else int(parts["candidates"])
    masked = (float(parts["low"]), float(parts["high"])) if parts["low"] else Training.mask_ratios
    pairs: PairsKept = "any" if parts["pairs"] else "both"
    rejected: RejectedFrom = "fresh" if parts["rejected"] else "previous"
    return Reference(checkpoint, candidates, int(parts["steps"]), pairs, rejected, masked)


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
