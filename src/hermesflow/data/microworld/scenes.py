"""Scenes of the micro world and their pixels: flat-coloured shapes at the centres of a 2 x 2 grid of cells."""

from __future__ import annotations

from functools import cache

import numpy as np

from hermesflow.data.worlds.scenes import Scene

SHAPES = ("circle", "square", "triangle", "cross")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 15, 45),
    "orange": (240, 115, 0),
    "yellow": (250, 215, 0),
    "green": (20, 150, 50),
    "cyan": (40, 205, 220),
    "blue": (20, 60, 230),
    "purple": (170, 40, 200),
    "black": (20, 20, 20),
}
GROUND = (244, 244, 240)
SIZES: dict[str, float] = {"small": 7.0, "large": 10.5}
"""Radius in pixels when a cell is 24 pixels wide; other image sizes scale it."""
_CELL_PIXELS = 24
_CROSS_ARM = 0.3  # half the width of a cross' arm, as a share of its radius


@cache
def mask_of(shape: str, size: str, cell_pixels: int) -> np.ndarray:
    """Pixels of a shape in the middle of its cell.

    Args:
        shape: one of `SHAPES`.
        size: a key of `SIZES`.
        cell_pixels: width of the cell.

    Returns:
        (cell_pixels, cell_pixels) bool, read-only.
    """
    radius = SIZES[size] * cell_pixels / _CELL_PIXELS
    offsets = np.arange(cell_pixels) + 0.5 - cell_pixels / 2
    x, y = np.meshgrid(offsets, offsets)
    box = np.maximum(abs(x), abs(y)) <= radius
    masks = {
        "circle": x**2 + y**2 <= radius**2,
        "square": box,
        "triangle": box & (abs(x) <= (y + radius) / 2),
        "cross": box & (np.minimum(abs(x), abs(y)) <= _CROSS_ARM * radius),
    }
    mask = masks[shape]
    mask.flags.writeable = False
    return mask


def render(scene: Scene, *, image_size: int) -> np.ndarray:
    """Draw a scene.

    Args:
        scene: objects with every attribute known.
        image_size: pixels per side, even.

    Returns:
        (image_size, image_size, 3) uint8 RGB.

    Raises:
        ValueError: odd image size.
    """
    if image_size % 2:
        raise ValueError(f"image_size {image_size} is odd; a scene has 2 x 2 cells, so use an even number.")
    cell = image_size // 2
    image = np.empty((image_size, image_size, 3), dtype=np.uint8)
    image[:] = GROUND
    for thing in scene.objects:
        assert thing.noun is not None and thing.size is not None and thing.color is not None
        row, column = divmod(thing.cell, 2)
        window = image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        window[mask_of(thing.noun, thing.size, cell)] = COLORS[thing.color]
    return image
