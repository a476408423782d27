"""The independent judge: reads any image of the world by its pixels, without a model.

Foreground is what lies nearer to a palette colour than to the ground; specks are dropped by connected components;
what is left in each cell is matched against every shape in every size by intersection over union, one pixel of
shift allowed. An object whose shape is not clear has noun and size None, one whose pixels do not agree on a colour
has colour None: it counts as an object, and nothing else said about it holds.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from hermesflow.data.microworld.scenes import COLORS, GROUND, SHAPES, SIZES, mask_of
from hermesflow.data.worlds.scenes import Scene, SceneObject

MIN_AREA = 0.06
"""Share of a cell's pixels below which foreground is a speck (the smallest shape has 0.16)."""
MIN_IOU = 0.6
"""Overlap with the best template below which a shape is unreadable."""
MIN_PURITY = 0.6
"""Share of an object's weight that must agree on its colour."""
COLOR_SPREAD = 40.0
"""Distance in RGB at which a pixel's vote on its object's colour has fallen to 0.6: blurred edges hardly vote."""

_LOOKS = tuple((shape, size) for shape in SHAPES for size in SIZES)
_SHIFTS = tuple((dy, dx) for dy in (0, -1, 1) for dx in (0, -1, 1))


def read_images(images: np.ndarray, *, batch: int = 512) -> list[Scene]:
    """Read images.

    Args:
        images: (N, H, W, 3) uint8, H = W even.
        batch: images worked on at once (memory only).

    Returns:
        N scenes, objects in reading order.
    """
    return [scene for start in range(0, len(images), batch) for scene in _read(images[start : start + batch])]


def _read(images: np.ndarray) -> list[Scene]:
    labels, distances = _nearest_color(images)
    labels[_specks(labels >= 0, images.shape[1] // 2)] = -1
    cells = _split_cells(labels)  # (N, 4, cell, cell)
    shapes, overlaps = _match(cells >= 0)
    weights = np.exp(-0.5 * _split_cells(distances) / COLOR_SPREAD**2)
    votes = _votes(cells, weights)  # (N, 4, colours)
    areas = (cells >= 0).sum((2, 3))
    purity = votes.max(-1) / np.maximum(votes.sum(-1), 1e-9)
    names, colors = tuple(COLORS), votes.argmax(-1)
    scenes = []
    for n in range(len(images)):
        things = []
        for cell in np.flatnonzero(areas[n] >= MIN_AREA * cells[0, 0].size):
            readable = overlaps[n, cell] >= MIN_IOU
            shape, size = _LOOKS[shapes[n, cell]] if readable else (None, None)
            color = names[colors[n, cell]] if purity[n, cell] >= MIN_PURITY else None
            things.append(SceneObject(shape, color, size, int(cell)))
        scenes.append(Scene(tuple(things)))
    return scenes


def _nearest_color(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index into the palette (-1 for ground) and squared distance to it of every pixel: two (N, H, W) arrays."""
    pixels = images.reshape(-1, 3).astype(np.float32)
    palette = np.array([*COLORS.values(), GROUND], dtype=np.float32)
    # |p - c|^2 without the |p|^2 that all candidates share
    partial = pixels @ (-2 * palette.T) + (palette**2).sum(1)
    nearest = partial.argmin(1)
    squared = np.take_along_axis(partial, nearest[:, None], 1)[:, 0] + (pixels**2).sum(1)
    nearest[nearest == len(COLORS)] = -1
    return nearest.astype(np.int8).reshape(images.shape[:3]), squared.reshape(images.shape[:3])


def _votes(cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weight of every palette colour in every cell: (N, 4, cell, cell) twice to (N, 4, colours)."""
    where = np.flatnonzero(cells >= 0)
    owner = where // cells[0, 0].size
    ballots = owner * len(COLORS) + cells.ravel()[where]
    total = np.bincount(ballots, weights=weights.ravel()[where], minlength=cells.shape[0] * 4 * len(COLORS))
    return total.reshape(cells.shape[0], 4, len(COLORS))


def _specks(foreground: np.ndarray, cell: int) -> np.ndarray:
    """Foreground components smaller than `MIN_AREA` of a cell: (N, H, W) bool."""
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1] = True  # connects within an image, never across images
    from scipy import ndimage  # the environment of lmms-eval has none

    components, number = ndimage.label(foreground, structure)
    sizes = np.bincount(components.ravel(), minlength=number + 1)
    small = sizes < MIN_AREA * cell * cell
    small[0] = False
    return small[components]


def _split_cells(labels: np.ndarray) -> np.ndarray:
    number, side, _ = labels.shape
    cell = side // 2
    return labels.reshape(number, 2, cell, 2, cell).transpose(0, 1, 3, 2, 4).reshape(number, 4, cell, cell)


def _match(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best look (index into `_LOOKS`) and its overlap for (N, 4, cell, cell) bool masks: two (N, 4) arrays."""
    number, _, cell, _ = cells.shape
    templates = _templates(cell)  # (looks * shifts, cell * cell)
    flat = cells.reshape(number * 4, cell * cell).astype(np.float32)
    common = flat @ templates.T
    union = flat.sum(1)[:, None] + templates.sum(1)[None] - common
    overlap = common / union
    best = overlap.argmax(1)
    value = np.take_along_axis(overlap, best[:, None], 1)
    return (best // len(_SHIFTS)).reshape(number, 4), value.reshape(number, 4)


@cache
def _templates(cell: int) -> np.ndarray:
    masks = [np.roll(mask_of(shape, size, cell), shift, (0, 1)) for shape, size in _LOOKS for shift in _SHIFTS]
    return np.stack(masks).reshape(len(masks), -1).astype(np.float32)
