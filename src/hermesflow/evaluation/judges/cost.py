"""What answers of an endpoint cost: an estimate before they are asked for, and the total of what it reports."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hermesflow.config.judges import Prices
from hermesflow.evaluation.judges.instructions import prompt_of
from hermesflow.evaluation.judges.protocol import Item
from hermesflow.evaluation.judges.replies import Reply

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; OpenAI's own rule of thumb."""
ROUNDING = 1e-9
"""Share of a limit by which sums of floats may miss it."""


@dataclass(frozen=True)
class Bill:
    """Answers and their price."""

    answers: int
    unmetered: int
    """Answers without reported tokens; they are not in the figures below."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompts'."""
    completion_tokens: int
    dollars: float


def estimate(items: Sequence[Item], prices: Prices, *, max_tokens: int) -> Bill:
    """The likely price of asking items: texts by their length, images as configured, answers as long as allowed."""
    sent = 0
    for item in items:
        prompt = prompt_of(item)
        sent += math.ceil(len(prompt.system + prompt.user) / CHARACTERS_PER_TOKEN)
        sent += prices.image_tokens if isinstance(item.evidence, bytes) else 0
    written = max_tokens * len(items)
    return Bill(len(items), 0, sent, 0, written, dollars(sent, written, prices))


def total(replies: Iterable[Reply], prices: Prices) -> Bill:
    """Computes the price of replies from the tokens that the endpoint reported.

    Replies without reported tokens are counted in the bill but cost nothing.
    """
    replies = list(replies)
    metered = [(r.prompt_tokens, r.cached_tokens, r.completion_tokens) for r in replies]
    counted = [(sent, cached, written) for sent, cached, written in metered if sent is not None and written is not None]
    sent, cached, written = (sum(row[column] for row in counted) for column in range(3))
    price = dollars(sent, written, prices, cached=cached)
    return Bill(len(replies), len(replies) - len(counted), sent, cached, written, price)


def dollars(prompt_tokens: int, completion_tokens: int, prices: Prices, *, cached: int = 0) -> float:
    """US dollars for tokens sent, so many of them cached by the endpoint, and written."""
    known = prices.input if prices.cached_input is None else prices.cached_input
    new = prompt_tokens - cached
    return (new * prices.input + cached * known + completion_tokens * prices.output) / 1e6


class Budget:
    """Keeps requests of several threads below a limit: each is reserved at its estimate, then charged at its price."""

    def __init__(self, limit: float | None, *, spent: float) -> None:
        """Take the limit in US dollars (None is none) and what has been spent of it."""
        self._limit, self._spent, self._reserved = limit, spent, 0.0
        self._lock = threading.Lock()

    def reserve(self, estimate: float) -> bool:
        """Whether a request of so many US dollars has room; if so, it is kept for it."""
        with self._lock:
            if self._limit is not None and self._spent + self._reserved + estimate > self._limit * (1 + ROUNDING):
                return False
            self._reserved += estimate
            return True

    def charge(self, estimate: float, reply: Reply, prices: Prices) -> None:
        """Put the price of a reply in the place of its estimate, which it keeps where no tokens are reported."""
        bill = total([reply], prices)
        with self._lock:
            self._reserved -= estimate
            self._spent += estimate if bill.unmetered else bill.dollars

    @property
    def used(self) -> float:
        """US dollars spent and reserved."""
        return self._spent + self._reserved
