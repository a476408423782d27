"""The config sections of a judge of real images."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from hermesflow.config.sections import Count, Positive, Rate, Source, Weight, section
from hermesflow.core.errors import ConfigError


@section
class Prices:
    """What the endpoint charges; the estimate before and the total after are reckoned with it."""

    input: Weight
    """US dollars per million tokens sent."""
    output: Weight
    """US dollars per million tokens written."""
    image_tokens: Count
    """Tokens an image counts as, for the estimate (the total is of what the endpoint reports)."""
    cached_input: Weight | None = None
    """US dollars per million tokens sent that the endpoint reports as read from its own cache; None is `input`."""


@section
class Pace:
    """How fast and how patiently an endpoint is asked."""

    requests_per_minute: Rate
    """Requests begin evenly, so many a minute, repeated ones included; the limit of the account, or less."""
    concurrency: Positive
    """At most so many requests under way."""
    timeout: Rate = 60.0
    """Seconds without a word from the endpoint after which a request is repeated."""
    attempts: Positive = 6
    """At most so many requests per question."""
    first_wait: Rate = 1.0
    """The wait before a repeat is drawn from 0 to this many seconds, twice as many before each further one."""
    longest_wait: Rate = 120.0
    """At most so many seconds; an endpoint that asks for more patience (Retry-After) ends the run."""


@section
class Endpoint:
    """A judge behind an OpenAI-compatible chat-completions endpoint."""

    kind: Literal["endpoint"]
    """`endpoint`: chat completions over HTTP."""
    base_url: str
    """What comes before `/chat/completions`, e.g. https://api.openai.com/v1."""
    model: str
    """Model to ask, with its date where it has one: an alias may change between two checkpoints (paper: GPT-4o)."""
    key_variable: str | None
    """Name of the environment variable that holds the key, never the key itself; None sends none."""
    seed: int = 0
    """Seed of the request; the temperature is always 0."""
    max_tokens: Positive = 60
    """At most so many tokens per answer."""
    detail: Literal["auto", "low", "high"] = "auto"
    """How closely images are looked at; it decides what they cost."""
    cache: str
    """Folder of all answers paid for, by content: shared by checkpoints, seeds and runs."""
    max_cost: Weight | None = None
    """US dollars that all answers in `cache` together may cost: nothing is asked where the estimate of what is missing
    would go beyond, and no further request is sent where the prices of what came leave no room for it. None is no
    limit. Requests that brought no answer are not in it: endpoints do not report them."""
    pace: Pace
    """Rate limit, repeats and waits. See its own table below."""
    prices: Prices
    """What it costs. See its own table below."""


@section
class LocalVlm:
    """A judge that transformers reads from disk (image-text-to-text)."""

    kind: Literal["local"]
    """`local`: a vision-language model on this machine."""
    model: str | Source
    """Folder or source with processor, chat template and safetensors weights."""
    cache: str
    """Folder of all answers given, by content (weights, question, image, generation), which a killed run goes on
    from; an endpoint's may be the same one."""
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Number type of its weights."""
    max_new_tokens: Positive = 60
    """At most so many tokens per answer."""


AnyJudge = Annotated[Endpoint | LocalVlm, Field(discriminator="kind")]

HOW = ("cache", "key_variable", "max_cost", "pace")
"""Keys of a judge that say how it is asked and never what it answers."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


def check_endpoint(settings: Endpoint) -> None:
    """Look for an address that is none, and for secrets where none belong; what is found is not repeated.

    Raises:
        ConfigError: `base_url` or `key_variable` is wrong.
    """
    if settings.key_variable is not None and not _VARIABLE.fullmatch(settings.key_variable):
        raise ConfigError(
            "benchmarks.gap.judge.key_variable: this is no name of an environment variable (it is not repeated here: "
            "it may be the key itself). Put the key into a variable, OPENAI_API_KEY for example, and its name into the "
            "config."
        )
    if not _ADDRESS.fullmatch(settings.base_url) or not _has_a_port(settings.base_url):
        raise ConfigError(
            "benchmarks.gap.judge.base_url: must be an http or https address without user, password or query, for "
            "example https://api.openai.com/v1. A key belongs into the variable that "
            "benchmarks.gap.judge.key_variable names."
        )


def _has_a_port(address: str) -> bool:
    """Whether the port, written or not, can be one."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
