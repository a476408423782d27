"""Look-up in the statistics: what was measured of a checkpoint, and by which protocols."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pandas as pd

from hermesflow.config.experiment import BASE

PROTOCOLS = ("paper", "same-judge")
SELF = "self"
"""Protocol of the gap where no judge but the model itself reads the images; of real images alone."""


class Figures:
    """Look-up in the statistics by checkpoint and metric."""

    FIELDS = ("value", "low", "high", "delta", "delta_low", "delta_high")

    def __init__(self, summary: pd.DataFrame) -> None:
        """Index the result of `statistics.summarise`."""
        rows = summary.to_dict("records")
        self._rows = {(str(r["checkpoint"]), str(r["metric"]), str(r.get("against", BASE))): r for r in rows}
        self.checkpoints = tuple(dict.fromkeys(checkpoint for checkpoint, *_ in self._rows))
        self.compared = tuple(dict.fromkeys((a, b) for a, _, b in self._rows if b != BASE))
        """Checkpoints whose difference was taken, first less second."""

    def get(self, checkpoint: str, metric: str | None, *, scale: float = 1.0, against: str = BASE) -> dict[str, float]:
        """Value, interval, difference from another checkpoint and its interval, scaled; NaN where nothing was measured.

        Args:
            checkpoint: its name.
            metric: name of a figure.
            scale: factor of all.
            against: base, or the second of one of `compared`.
        """
        row = self._rows.get((checkpoint, metric or "", against), {})
        return {field: float(row.get(field, float("nan"))) * scale for field in self.FIELDS}

    def seeds(self, checkpoint: str) -> int:
        """Number of run seeds behind a checkpoint's figures."""
        return next(int(r["seeds"]) for (c, *_), r in self._rows.items() if c == checkpoint)

    def protocols(self) -> tuple[str, ...]:
        """Protocols of the gap that were measured; those of a small world where none was."""
        known = {metric.split("/")[1] for metric in self.metrics if metric.startswith("gap/")}
        return tuple(p for p in (*PROTOCOLS, SELF) if p in known) or PROTOCOLS

    @property
    def real(self) -> bool:
        """Whether the images are real ones: a small world has a judge of its own, and no protocol `self`."""
        return SELF in self.protocols()

    @property
    def protocol(self) -> str:
        """The protocol that one line stands for all by: one judge on both sides where there is one."""
        known = self.protocols()
        return "same-judge" if "same-judge" in known else known[-1]

    @property
    def both_right(self) -> bool:
        """Whether it was counted for how many questions both sides of the gap are right."""
        return any(self.measured(f"gap/{protocol}/both_right") for protocol in self.protocols())

    def measured(self, metric: str | None) -> bool:
        """Whether any checkpoint has a figure of this name."""
        return metric in self.metrics

    @cached_property
    def metrics(self) -> frozenset[str]:
        """Names of all figures that some checkpoint has."""
        return frozenset(metric for _, metric, _ in self._rows)

    def checkpoints_in(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the names that were evaluated, in the given order."""
        return tuple(name for name in names if name in self.checkpoints)
