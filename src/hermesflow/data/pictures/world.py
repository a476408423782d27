"""The pictures world: seeded scenes, the parts that their captions are split into, and GenEval's own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import numpy as np

from hermesflow.data import geneval
from hermesflow.data.pictures.captions import LEXICON, caption_of
from hermesflow.data.pictures.judge import read_images
from hermesflow.data.pictures.scenes import GROUNDS, Look, render
from hermesflow.data.pictures.sprites import PICTURES, STYLES, TINTS, colors_of, credit_of, own_color
from hermesflow.data.worlds.language import KINDS, article, parse_caption
from hermesflow.data.worlds.scenes import NUMBERS, Scene, SceneObject
from hermesflow.data.worlds.world import World, bucket_at, draw, split_share

_SIDES = ((0, 1), (2, 3), (0, 2), (1, 3))
_DIAGONALS = ((0, 3), (1, 2))
_TINTED = ("colors", "color_attribution", "dense")
_NAMES = {"cell phone": "phone"}
"""GenEval's name of a noun, where it has two words."""


def make_scene(
    kind: str, generator: np.random.Generator, *, styles: Sequence[str] = ("twemoji",), shift: int = 0
) -> Scene:
    """Draw a scene of one caption kind.

    Args:
        kind: one of `KINDS`.
        generator: source of randomness; of one style and without a shift, looks draw nothing from it.
        styles: of `sprites.STYLES`; each picture is of one of them.
        shift: pictures are moved by up to so many pixels, down or up and right or left.

    Returns:
        Objects in reading order, nouns and tints all different but in a `counting`. Objects without a tint have the
        colour that the picture has as it is, None where that has no name.

    Raises:
        ValueError: unknown kind.
    """
    ground, cells = draw(GROUNDS, generator), _cells(kind, generator)
    number = 1 if kind == "counting" else len(cells)
    nouns = [list(PICTURES)[i] for i in generator.choice(len(PICTURES), size=number, replace=False)]
    nouns *= len(cells) // number
    moves = (-shift, shift + 1, (len(cells), 2))
    looks = [Look(draw(styles, generator), *place) for place in generator.integers(*moves).tolist()]
    colors = [own_color(noun, look.style) for noun, look in zip(nouns, looks, strict=True)]
    while kind in _TINTED:
        colors = [draw(colors_of(noun, look.style), generator) for noun, look in zip(nouns, looks, strict=True)]
        if len(set(colors)) == number:
            break
    things = zip(nouns, colors, cells, looks, strict=True)
    return Scene(tuple(SceneObject(noun, color, None, cell, look) for noun, color, cell, look in things), ground)


def bucket_of(caption: str) -> str:
    """The part a caption belongs to, by a hash of what it says: train 70 %, gap 10 %, benchmark 20 %.

    What GenEval's own prompts say belongs to none of them.
    """
    content = _content(caption)
    return "geneval" if content in _geneval_contents() else bucket_at(split_share(content))


def geneval_prompts() -> list[tuple[str, str]]:
    """Those of GenEval's 553 prompts that can be asked in this world word by word, (kind, caption).

    "a photo of" is left out, "cell phone" is "phone", and plurals are English ("sandwiches", "sheep").
    """
    captions = []
    for prompt in geneval.prompts():
        nouns = [_NAMES.get(name, name) for name in prompt.objects]
        if not set(nouns) <= set(PICTURES) or not set(prompt.colors) <= set(TINTS):
            continue
        words = [" ".join(pair) for pair in zip(prompt.colors, nouns, strict=True)] if prompt.colors else nouns
        named = [f"{article(name)} {name}" for name in words]
        many = [f"{NUMBERS[prompt.count - 1]} {LEXICON.plurals[nouns[0]]}"]
        captions.append((prompt.kind, f" {prompt.relation or 'and'} ".join(many if prompt.count > 1 else named)))
    return captions


def _cells(kind: str, generator: np.random.Generator) -> tuple[int, ...]:
    if kind in ("single_object", "colors"):
        return (int(generator.integers(4)),)
    if kind == "position":
        return draw(_SIDES, generator)
    if kind not in KINDS:
        raise ValueError(f"unknown caption kind {kind!r}; use one of {KINDS}")
    number = {"counting": int(generator.integers(2, 5)), "dense": 3}.get(kind, 2)
    if number == 2:
        return draw(_DIAGONALS, generator)
    return tuple(sorted(int(cell) for cell in generator.permutation(4)[:number]))


@cache
def _geneval_contents() -> frozenset[str]:
    return frozenset(_content(caption) for _, caption in geneval_prompts())


def _content(caption: str) -> str:
    facts = parse_caption(caption, LEXICON)
    if facts is None:
        raise ValueError(f"{caption!r} is not a caption of the pictures world.")
    return facts.content


@cache
def _variant(style: str, shift: int) -> World:
    """The world with pictures of a style, or of `both`, that are moved by up to so many pixels."""
    styles = tuple(STYLES) if style == "both" else (style,)
    shown = ("emoji", *(["of two styles"] if len(styles) > 1 else []), *(["out of the middle"] if shift else []))
    return World(
        name="pictures",
        title="pictures world",
        shows=f"{' '.join(shown)} on five grounds",
        reading="least squares against every picture, colour and small shift",
        lexicon=LEXICON,
        make_scene=partial(make_scene, styles=styles, shift=shift),
        caption_of=caption_of,
        render=render,
        read_images=partial(read_images, styles=styles, fine=shift > 0),
        bucket_of=bucket_of,
        prompts=geneval_prompts,
        credit=credit_of(styles),
        variant=_variant,
    )


WORLD = _variant("twemoji", 0)
