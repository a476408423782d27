"""Slurm's warning before the time limit or a pre-emption, taken as a wish to stop at the end of the step.

With several processes a signal may reach one of them first, or one alone: they stop together, after the same step.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Self

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
ECHO = 5.0
"""Seconds in which the same warning may come again: Slurm, srun and the launcher each pass it on."""


class Interruption:
    """Notes signals while its block runs; one that comes again later than an echo ends the process at once."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __enter__(self) -> Self:
        """Start to listen."""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        """Give signals their meaning back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wished_by_any(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; all processes get the same answer."""
        stopping = torch.tensor(float(self._since is not None), device=accelerator.device)
        return bool(accelerator.reduce(stopping, reduction="sum") > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
