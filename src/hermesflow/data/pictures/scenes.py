"""Scenes of the pictures world and their pixels: pictures in (or near) the middle of four cells, on five grounds."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from hermesflow.core.errors import DataError
from hermesflow.data.pictures.sprites import sprite
from hermesflow.data.worlds.scenes import Scene

GROUNDS = ("snow", "grass", "sand", "sky", "night")
PLAIN_GROUND = "snow"
"""The ground that goes without saying."""
PICTURE_SHARE = 0.875
"""Side of a picture as a share of its cell's."""


class Look(NamedTuple):
    """How a picture is drawn: `SceneObject.look`."""

    style: str = "twemoji"
    down: int = 0
    """Pixels from the middle of its cell."""
    right: int = 0


@cache
def ground_of(name: str, image_size: int) -> np.ndarray:
    """An empty scene: (image_size, image_size, 3) float32 of 0 to 255, read-only."""
    y, x = np.mgrid[:image_size, :image_size] * (64 / image_size)
    flat, height = np.zeros_like(y), y / 64
    wave = {"grass": np.sin(x * np.pi / 4), "sand": np.sin((x + y) * np.pi / 4)}.get(name, flat)
    base, slope, swing = {
        "snow": ((222, 227, 234), (14, 14, 14), 0),
        "grass": ((174, 214, 138), (0, 0, 0), 6),
        "sand": ((233, 213, 170), (0, 0, 0), 7),
        "sky": ((152, 198, 232), (16, 20, 16), 0),
        "night": ((74, 80, 128), (0, 0, 0), 0),
    }[name]
    image = np.array(base) + height[..., None] * np.array(slope) + swing * wave[..., None]
    image = image.astype(np.float32)
    image.flags.writeable = False
    return image


def render(scene: Scene, *, image_size: int) -> np.ndarray:
    """Draw a scene.

    Args:
        scene: objects with known nouns on a known ground.
        image_size: pixels per side, a multiple of 32.

    Returns:
        (image_size, image_size, 3) uint8 RGB.

    Raises:
        DataError: another image size, or the pictures are missing or others.
    """
    if image_size % 32:
        raise DataError(f"data.image_size: the judge of `pictures` reads multiples of 32 pixels, not {image_size}.")
    cell = image_size // 2
    size = round(PICTURE_SHARE * cell)
    margin = (cell - size) // 2
    assert scene.ground is not None
    image = ground_of(scene.ground, image_size).copy()
    for thing in scene.objects:
        assert thing.noun is not None
        look = thing.look or Look()
        rgb, opacity = sprite(thing.noun, thing.color, size, look.style)
        row, column = divmod(thing.cell, 2)
        top, left = row * cell + margin + look.down, column * cell + margin + look.right
        window = image[top : top + size, left : left + size]
        window += opacity * (rgb - window)
    return image.round().astype(np.uint8)
