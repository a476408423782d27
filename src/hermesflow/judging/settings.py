"""The config sections of a judge of real images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hermesflow.sections import Count, Positive, Rate, Source, Weight, section


@section
class Prices:
    """What the endpoint charges; the estimate before and the total after are reckoned with it."""

    input: Weight
    """US dollars per million tokens sent."""
    output: Weight
    """US dollars per million tokens written."""
    image_tokens: Count
    """Tokens an image counts as, for the estimate (the total is of what the endpoint reports)."""


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
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Number type of its weights."""
    max_new_tokens: Positive = 60
    """At most so many tokens per answer."""


AnyJudge = Annotated[Endpoint | LocalVlm, Field(discriminator="kind")]
