"""The independent judge of the pictures world: reads any image by its pixels, without a model.

The ground is the one that the image's rim is nearest to; it is subtracted. What is left in a cell, if it is no speck,
is compared with every picture in every colour and with small shifts, by least squares with a bounded gain at 16 x 16
pixels a cell. Where no picture explains enough of it, the cell holds something unreadable: it counts as an object, and
nothing else said about it holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from hermesflow.data.pictures.scenes import GROUNDS, PICTURE_SHARE, ground_of
from hermesflow.data.pictures.sprites import PICTURES, colors_of, own_color, sprite
from hermesflow.data.worlds.scenes import Scene, SceneObject

MIN_EXPLAINED = 0.55
"""Share of a cell's squared differences from the ground that the best picture must explain."""
MIN_ENERGY = 100.0
"""Mean square of a cell's block means, in squared grey levels, below which it is empty."""
MIN_AREA = 0.08
"""Share of a cell that must differ from the ground, or it is a speck."""
DIFFERS = 30.0
"""Distance in RGB at which a pixel differs from the ground."""
GAINS = (0.6, 1.3)
"""Bounds of the factor of a picture's contrast."""

_SIDE = 16  # pixels of a cell at which pictures are compared
_BLOCKS = {"twemoji": 4, "openmoji": 8}  # blocks on a side of a cell; coarse ones swallow OpenMoji's thin lines
_SHIFTS = {False: (0, -2, 2), True: (0, -1, 1, -2, 2)}  # by whether they are fine, in pixels of a cell of 32


class _Templates(NamedTuple):
    """Every picture in every style, colour and shift, T in all, over a ground: `weighted - opacity * ground`."""

    weighted: np.ndarray
    """(T, 16 * 16 * 3): colour times opacity."""
    opacity: np.ndarray
    """(T, 16 * 16)."""


def read_images(
    images: np.ndarray, *, styles: Sequence[str] = ("twemoji",), fine: bool = False, batch: int = 256
) -> list[Scene]:
    """Read images.

    Args:
        images: (N, H, W, 3) uint8, H = W a multiple of 32.
        styles: of `sprites.STYLES`, that pictures may be of.
        fine: compare with shifts of every pixel of 32 to a cell, not of every second one.
        batch: images worked on at once (memory only).

    Returns:
        N scenes, objects in reading order. A picture in its natural colours has its own colour (`sprites.own_color`).
    """
    parts = (images[start : start + batch] for start in range(0, len(images), batch))
    return [scene for part in parts for scene in _read(part, tuple(styles), fine)]


def _read(images: np.ndarray, styles: tuple[str, ...], fine: bool) -> list[Scene]:
    number, size = images.shape[:2]
    pixels = images.astype(np.float32)
    grounds = np.stack([ground_of(name, size) for name in GROUNDS])
    rim = np.ones((size, size), dtype=bool)
    rim[size // 32 : -(size // 32), size // 32 : -(size // 32)] = False
    distances = [np.median(np.linalg.norm(pixels[:, rim] - ground[rim], axis=-1), axis=1) for ground in grounds]
    nearest = np.argmin(distances, axis=0)
    diff = _shrunk(pixels - grounds[nearest], size // (2 * _SIDE))
    cells = diff.reshape(number, 2, _SIDE, 2, _SIDE, 3).transpose(0, 1, 3, 2, 4, 5).reshape(number, 4, _SIDE, _SIDE, 3)
    blocks = max(_BLOCKS[style] for style in styles)
    energy = (_shrunk(cells.reshape(-1, _SIDE, _SIDE, 3), _SIDE // blocks) ** 2).mean((1, 2, 3)).reshape(number, 4)
    area = (np.linalg.norm(cells, axis=-1) > DIFFERS).mean((2, 3))
    held = (energy > MIN_ENERGY) & (area > MIN_AREA)
    objects: list[list[SceneObject]] = [[] for _ in images]
    for place, name in enumerate(GROUNDS):
        owners, where = np.nonzero(held & (nearest == place)[:, None])
        looks, explained = _match(cells[owners, where], name, styles, fine)
        for owner, cell, look, share in zip(owners, where, looks, explained, strict=True):
            style, noun, tint = _looks(styles)[look]
            thing = SceneObject(noun, tint or own_color(noun, style), None, int(cell))
            objects[owner].append(thing if share >= MIN_EXPLAINED else SceneObject(None, None, None, int(cell)))
    return [Scene(tuple(things), GROUNDS[place]) for things, place in zip(objects, nearest, strict=True)]


def _match(cells: np.ndarray, ground: str, styles: tuple[str, ...], fine: bool) -> tuple[np.ndarray, np.ndarray]:
    """Best look (index into `_looks`) and the share it explains, of (N, 16, 16, 3) cells less their ground."""
    templates, squares, color = _templates(styles, fine), _squares(ground, styles, fine), _mean_color(ground)
    flat = cells.reshape(len(cells), _SIDE * _SIDE * 3)
    common = flat @ templates.weighted.T - (cells @ color).reshape(len(cells), _SIDE * _SIDE) @ templates.opacity.T
    gains = np.clip(common / squares, *GAINS)
    explained = gains * (2 * common - gains * squares)
    best = explained.argmax(1)
    share = np.take_along_axis(explained, best[:, None], 1)[:, 0] / np.maximum((flat**2).sum(1), 1e-9)
    return best // len(_SHIFTS[fine]) ** 2, share


def _shrunk(images: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of `factor` x `factor` pixels: (N, H, W, C) to (N, H / factor, W / factor, C)."""
    number, height, width, channels = images.shape
    return images.reshape(number, height // factor, factor, width // factor, factor, channels).mean((2, 4))


@cache
def _looks(styles: tuple[str, ...]) -> tuple[tuple[str, str, str | None], ...]:
    """Every picture in every style and colour: style, noun, and tint or None."""
    return tuple((s, noun, color) for s in styles for noun in PICTURES for color in (None, *colors_of(noun, s)))


@cache
def _templates(styles: tuple[str, ...], fine: bool) -> _Templates:
    looks = _looks(styles)
    cell, size = 2 * _SIDE, round(2 * _SIDE * PICTURE_SHARE)
    margin = (cell - size) // 2
    empty = np.zeros((len(looks), cell, cell, 4), dtype=np.float32)
    for place, (style, noun, color) in enumerate(looks):
        rgb, opacity = sprite(noun, color, size, style)
        empty[place, margin : margin + size, margin : margin + size] = np.concatenate([rgb * opacity, opacity], -1)
    shifts = itertools.product(_SHIFTS[fine], repeat=2)
    shifted = np.stack([_shrunk(np.roll(empty, shift, (1, 2)), 2) for shift in shifts], axis=1)
    flat = shifted.reshape(-1, _SIDE * _SIDE, 4)
    return _Templates(np.ascontiguousarray(flat[..., :3]).reshape(len(flat), -1), np.ascontiguousarray(flat[..., 3]))


@cache
def _squares(ground: str, styles: tuple[str, ...], fine: bool) -> np.ndarray:
    """Squared length of every template over a ground, (T,)."""
    templates, color = _templates(styles, fine), _mean_color(ground)
    over = templates.weighted.reshape(*templates.opacity.shape, 3) - templates.opacity[..., None] * color
    return (over**2).sum((1, 2))


@cache
def _mean_color(ground: str) -> np.ndarray:
    return ground_of(ground, 2 * _SIDE).mean((0, 1))
