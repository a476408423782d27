"""When requests to an endpoint may begin, and how long to wait before one is repeated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class Pacer:
    """Lets requests of several threads begin evenly, so many a minute, and none while the endpoint wants peace."""

    def __init__(
        self, per_minute: float, *, sleep: Callable[[float], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval, self._sleep, self._clock = 60 / per_minute, sleep, clock
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until this thread's request may begin."""
        with self._lock:
            now = self._clock()
            begin = max(self._next, now)
            self._next = begin + self._interval
        if begin > now:
            self._sleep(begin - now)

    def hold(self, seconds: float) -> None:
        """Let no request begin for so long that has not been given its time yet."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def retry_after(header: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds a Retry-After header asks for, at least 0; None where there is none or it says nothing.

    Args:
        header: seconds, or a date.
        now: the present, with a time zone; the clock's if None.

    Source: RFC 9110, section 10.2.3.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)  # "-0000" is UTC too
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return max(seconds, 0.0) if seconds < float("inf") else None
