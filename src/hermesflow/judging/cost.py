"""What answers of an endpoint cost: an estimate before they are asked for, and the total of what it reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hermesflow.judging.instructions import prompt_of
from hermesflow.judging.protocol import Item
from hermesflow.judging.settings import Prices

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; OpenAI's own rule of thumb."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered to one request."""

    text: str
    refused: bool
    model: str
    """The model that answered, as the endpoint names it."""
    prompt_tokens: int | None
    """As reported; None where the endpoint reports none."""
    completion_tokens: int | None


@dataclass(frozen=True)
class Bill:
    """Answers and their price."""

    answers: int
    unmetered: int
    """Answers without reported tokens; they are not in the figures below."""
    prompt_tokens: int
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
    return Bill(len(items), 0, sent, written, dollars(sent, written, prices))


def total(replies: Iterable[Reply], prices: Prices) -> Bill:
    """The price of replies by their reported tokens."""
    replies = list(replies)
    metered = [(r.prompt_tokens, r.completion_tokens) for r in replies]
    counted = [(sent, written) for sent, written in metered if sent is not None and written is not None]
    sent, written = sum(s for s, _ in counted), sum(w for _, w in counted)
    return Bill(len(replies), len(replies) - len(counted), sent, written, dollars(sent, written, prices))


def dollars(prompt_tokens: int, completion_tokens: int, prices: Prices) -> float:
    """US dollars for tokens sent and written."""
    return (prompt_tokens * prices.input + completion_tokens * prices.output) / 1e6
