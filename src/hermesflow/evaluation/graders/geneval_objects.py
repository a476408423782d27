"""What GenEval's detector finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Detection:
    """One object found in an image."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""
    score: float
    mask: np.ndarray | None = None
    """(H, W) bool, True on the object."""
