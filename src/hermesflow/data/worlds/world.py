"""The seam between a world and the stages: what a world must declare, and what follows from it.

A world is a module `data/NAME/world.py` with a `WORLD`; `data.source: NAME` chooses it. It declares its words, how a
scene of a kind is drawn, said and rendered, how any image is read back, and which part of the captions a caption
belongs to. Questions, verdicts and splits are the same for all.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from hermesflow.config.sections import Data
from hermesflow.core import registry
from hermesflow.core.seeding import seed_of
from hermesflow.data.worlds import questions, verdicts
from hermesflow.data.worlds.language import KINDS, OWN, WORLDS, Facts, Lexicon, parse_caption
from hermesflow.data.worlds.questions import Question
from hermesflow.data.worlds.scenes import Scene

BUCKETS = {
    "base": "train",
    "pairs": "train",
    "gap": "gap",
    "understanding": "benchmark",
    "prompts": "benchmark",
    "stopping": "benchmark",
}
"""Which part of the captions a split draws from."""

_FRESH_DRAWS = 60  # draws in a row without a new caption after which captions may repeat


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """A small world: what it declares, and the functions that stages call."""

    name: str
    title: str
    """What the report calls it, "the micro world", without the article."""
    shows: str
    """What is in its scenes."""
    reading: str
    """What the judge reads pixels by."""
    lexicon: Lexicon
    make_scene: Callable[[str, np.random.Generator], Scene]
    """A scene of one caption kind; it depends on the generator alone."""
    caption_of: Callable[[Scene, str], str]
    """The one caption of a scene made for a kind."""
    render: Callable[..., np.ndarray]
    """`render(scene, image_size=)`: (H, W, 3) uint8."""
    read_images: Callable[[np.ndarray], list[Scene]]
    """The judge: what it sees in any (N, H, W, 3) uint8 images of the world's size, without a model."""
    bucket_of: Callable[[str], str]
    """The part a caption belongs to: a value of `BUCKETS`, or another that no split draws from."""
    prompts: Callable[[], list[tuple[str, str]]] = list
    """GenEval's own prompts that the world can be asked, (kind, caption); no split holds them."""
    credit: str | None = None
    """Licence line that stands wherever its images are shown."""
    variant: Callable[[str, int], World] | None = None
    """The same world drawn otherwise, by `data.style` and `data.shift`; None where there is one way."""

    def parse_caption(self, text: str) -> Facts | None:
        """What a text says; None if it is no sentence of the world."""
        return parse_caption(text, self.lexicon)

    def answer(self, scene: Scene, question: Question) -> str | None:
        """What the judge answers; see `verdicts.answer`."""
        return verdicts.answer(scene, question, self.lexicon)

    def accepts(self, scene: Scene, caption: str) -> bool:
        """Whether a scene is what a caption says; see `verdicts.accepts`."""
        return verdicts.accepts(scene, caption, self.lexicon)

    def caption_facts_f1(self, candidate: str, reference: Scene | str) -> float:
        """How much of what a caption says is true; see `verdicts.caption_facts_f1`."""
        return verdicts.caption_facts_f1(candidate, reference, self.lexicon)

    def questions_of(self, caption: str) -> list[Question]:
        """Questions that follow from a caption; see `questions.questions_of`."""
        return questions.questions_of(caption, self.lexicon)

    def vocabulary(self) -> list[str]:
        """Every word of captions, questions and answers, sorted."""
        return questions.vocabulary(self.lexicon)

    def make_pairs(
        self, split: str, count: int, *, config: Data, kinds: Sequence[str] = KINDS
    ) -> Iterator[dict[str, Any]]:
        """Rows of one split, kinds taking turns; each kind of each split has its own stream of random numbers.

        Captions do not repeat before the split's captions of that kind are (nearly) used up, except in `base`, which
        is for training from scratch: its captions repeat and its questions are ever new ones.

        Args:
            split: a key of `BUCKETS`.
            count: number of rows.
            config: the data section (seed, image size).
            kinds: caption kinds to take in turn.

        Yields:
            Rows of `pairs.SCHEMA`: id, image (PNG bytes), caption, kind, questions. The first rows do not depend on
            `count`.

        Raises:
            KeyError: unknown split.
        """
        bucket = BUCKETS[split]
        generators = {kind: np.random.default_rng(seed_of(self.name, config.seed, split, kind)) for kind in kinds}
        varied = Random(seed_of(self.name, config.seed, split, "questions"))
        seen: dict[str, set[str]] = {kind: set() for kind in kinds}
        for index in range(count):
            kind = kinds[index % len(kinds)]
            fresh = None if split == "base" else seen[kind]
            scene, caption = self._scene_of(bucket, kind, generators[kind], fresh)
            rows = (
                questions.varied_questions_of(caption, self.lexicon, varied)
                if split == "base"
                else self.questions_of(caption)
            )
            yield {
                "id": f"{split}-{kind}-{index // len(kinds):05d}",
                "image": {"bytes": encode_png(self.render(scene, image_size=config.image_size)), "path": None},
                "caption": caption,
                "kind": kind,
                "questions": list(map(_as_row, rows)),
            }

    def own_prompts(self) -> Iterator[dict[str, Any]]:
        """Rows of `pairs.SCHEMA` for `prompts`: without images, of kind `OWN` + the prompt's kind."""
        for index, (kind, caption) in enumerate(self.prompts()):
            row = {"id": f"geneval-{index:03d}", "image": None, "caption": caption, "kind": OWN + kind}
            yield row | {"questions": list(map(_as_row, self.questions_of(caption)))}

    def _scene_of(
        self, bucket: str, kind: str, generator: np.random.Generator, seen: set[str] | None
    ) -> tuple[Scene, str]:
        stale = 0
        while True:
            scene = self.make_scene(kind, generator)
            caption = self.caption_of(scene, kind)
            if _cached_bucket(self, caption) != bucket:
                continue
            if seen is None:
                return scene, caption
            if caption in seen and stale < _FRESH_DRAWS:
                stale += 1
                continue
            if caption in seen:
                seen.clear()
            seen.add(caption)
            return scene, caption


def world_of(data: Any) -> World:
    """The world of a config's section `data`; for real data the micro world, whose sentences are recognised in them."""
    return world_named(data.source, getattr(data, "style", None), getattr(data, "shift", None))


def world_named(source: str, style: str | None = None, shift: int | None = None) -> World:
    """Likewise, by the values of `data.source`, `data.style` and `data.shift`."""
    world = registry.load("hermesflow.data", f"{source if source in WORLDS else WORLDS[0]}.world", "WORLD")
    return world.variant(style or "twemoji", shift or 0) if world.variant else world


def draw(choices: Sequence[Any], generator: np.random.Generator) -> Any:
    """One of some choices."""
    return choices[int(generator.integers(len(choices)))]


def split_share(text: str) -> float:
    """A number in [0, 1) that depends on a text alone; `bucket_at` makes a part of it."""
    return seed_of("bucket", text) / 2**63


def bucket_at(share: float) -> str:
    """Train 70 %, gap 10 %, benchmark 20 %."""
    return "train" if share < 0.7 else "gap" if share < 0.8 else "benchmark"


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a (H, W, 3) uint8 image."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _as_row(question: Question) -> dict[str, Any]:
    return vars(question) | {"choices": list(question.choices)}


@cache
def _cached_bucket(world: World, caption: str) -> str:
    return world.bucket_of(caption)
