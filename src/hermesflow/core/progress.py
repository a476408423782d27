"""Progress of a long stage as plain lines, readable in a terminal and in a log file alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

DURATION_COLUMNS = ("output", "rule", "seconds")
"""Of the CSV file of a run's durations: the first output file of a job, its rule, what it took."""


class Progress:
    """Count finished units and now and then print one line: done/total, rate, time left.

    Lines go to stderr and never into an artifact, so that clock times stay out of results.

    Args:
        total: units in all; 0 is allowed.
        what: what is being done, e.g. `sample base 0/2`.
        unit: name of one unit, e.g. `pair`; printed with an s.
        every: least seconds between two lines; the last unit always prints one.
        stream: where lines go; stderr if None.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        total: int,
        what: str,
        unit: str,
        *,
        every: float = 3.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.count = 0
        self._every, self._stream, self._clock = every, stream, clock
        self._start = self._last = clock()

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""
        self.count += n
        now = self._clock()
        if self.count >= self.total or now - self._last >= self._every:
            self._last = now
            print(self._line(now - self._start), file=self._stream or sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        rate = self.count / seconds if seconds > 0 else 0.0
        line = f"{self.what}: {self.count:,}/{self.total:,} {self.unit}s, {rate:,.1f} {self.unit}s/s"
        if self.count >= self.total:
            return f"{line}, took {clock_time(seconds)}"
        return f"{line}, {clock_time((self.total - self.count) / rate)} left" if rate > 0 else line


def clock_time(seconds: float) -> str:
    """Returns hours, minutes and seconds: 1:02:03, 2:03."""
    minutes, remainder = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{remainder:02}" if hours else f"{minutes}:{remainder:02}"
