"""How cost grows: with captions, images and pairs, and with the size of a shard; and what loading a batch costs."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import sizes, works
from bench.measuring import fastest
from bench.sizes import Size
from hermesflow.models.backbone import UnifiedModel

CAPTIONS, IMAGES, PAIRS, SHARDS = (1, 2, 5, 10, 20), (4, 8, 16, 32), (1, 2, 4, 8), (1, 2, 4, 8)
TOKENS, STEPS, IMAGES_EACH, CAPTIONS_EACH = 20, 2, 2, 10
TRIES = 2
_STORED_PAIRS, _BATCHES = 512, 20


def curves(size: Size, model: UnifiedModel) -> Iterator[dict[str, Any]]:
    """Seconds over n, each with a line fitted by least squares."""
    tokens, steps = min(TOKENS, size.new_tokens), min(STEPS, size.steps)

    def written(count: int) -> None:
        works.write(size, model, count=count, tokens=tokens)

    def drawn(count: int) -> None:
        works.draw(model, sizes.prompts(size, count), steps=steps)

    def trained(count: int) -> Callable[[], object]:
        batch = works.pair_batch(sizes.homologous(size, count, model=model), count)
        return works.step(model, batch, works.stored(model, batch))

    yield _curve(f"captions of an image, {tokens} tokens each", CAPTIONS, lambda n: partial(written, n))
    yield _curve(f"images of {size.prompts} captions, {steps} steps", IMAGES, lambda n: partial(drawn, n))
    yield _curve("pairs of a Pair-DPO step", PAIRS, trained)


def shards(size: Size, model: UnifiedModel) -> Iterator[dict[str, Any]]:
    """Images and captions per second over the number of pairs that are sampled together."""
    tokens, steps = min(TOKENS, size.new_tokens), min(STEPS, size.steps)

    def drawn(pairs: int) -> None:
        captions = [sizes.text(size.prompt_words[1] // 2, "shard", pair) for pair in range(pairs)]
        works.draw(model, [caption for caption in captions for _ in range(IMAGES_EACH)], steps=steps)

    def written(pairs: int) -> None:
        works.write(size, model, count=CAPTIONS_EACH, tokens=tokens, images=pairs)

    for what, each, run in (
        (f"images, {IMAGES_EACH} a pair, {steps} steps", IMAGES_EACH, drawn),
        (f"captions, {CAPTIONS_EACH} a pair, {tokens} tokens", CAPTIONS_EACH, written),
    ):
        seconds = [fastest(partial(run, pairs), TRIES) for pairs in SHARDS]
        rates = [each * pairs / one for pairs, one in zip(SHARDS, seconds, strict=True)]
        yield {"name": what, "pairs": list(SHARDS), "per_second": rates, "last_over_first": rates[-1] / rates[0]}


def line(places: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Least squares: slope, intercept, and the share of the variance that the line explains."""
    x, y = np.asarray(places, dtype=float), np.asarray(values, dtype=float)
    slope, intercept = np.polyfit(x, y, 1)
    rest = ((y - slope * x - intercept) ** 2).sum()
    return {"slope": float(slope), "intercept": float(intercept), "r2": float(1 - rest / ((y - y.mean()) ** 2).sum())}


def loading(size: Size, model: UnifiedModel, step_seconds: float) -> dict[str, float]:
    """Putting a batch together from tokens on disk, memory-mapped, and its share of a step of Pair-DPO."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = sizes.homologous(size, _STORED_PAIRS, model=model, folder=Path(folder))
        rows = pairs.rows(_BATCHES * size.pairs)
        for first in range(0, len(rows), size.pairs):
            start = time.perf_counter()
            pairs.batch(rows[first : first + size.pairs], device="cpu")
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {"seconds": median, "step_seconds": step_seconds, "share": median / (median + step_seconds)}


def _curve(name: str, counts: Sequence[int], prepare: Callable[[int], Callable[[], object]]) -> dict[str, Any]:
    seconds = [fastest(prepare(count), TRIES) for count in counts]
    return {"name": name, "n": list(counts), "seconds": seconds, **line(counts, seconds)}
