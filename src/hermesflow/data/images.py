"""Images of other people's data as the model needs them: upright, opaque, the official size, kept without loss."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from hermesflow.core.errors import DataError

WHITE = "#ffffff"
"""Colour behind transparent pixels."""
_ORIENTATION = 0x0112  # EXIF: which way up the camera was held


class Fitted(NamedTuple):
    """An image as the model needs it, and what was done to its pixels for that."""

    png: bytes
    changes: tuple[str, ...]


def open_image(encoded: bytes | Path, *, ground: str = WHITE) -> Image.Image:
    """An image file, or the bytes of one, as RGB: turned upright by its EXIF orientation, transparency on a ground.

    Raises:
        DataError: empty, missing, truncated, or not an image.
    """
    return _opened(encoded, ground)[0]


def fit_image(encoded: bytes, image_size: int, *, ground: str = WHITE) -> Fitted:
    """Scale an image so that its shorter side is `image_size` (bicubic), cut out the middle square, encode as PNG.

    Args:
        encoded: a JPEG, PNG or other image file.
        image_size: pixels per side of the result.
        ground: colour behind transparent pixels.

    Returns:
        PNG bytes of an (image_size, image_size) RGB image, and the changes; the same input gives the same bytes.

    Raises:
        DataError: empty, truncated, or not an image.

    Source: Show-o, `image_transform` of training/utils.py (torchvision Resize(bicubic) and CenterCrop on an RGB image).
    """
    image, changes = _opened(encoded, ground)
    if min(image.size) != image_size:
        changes.append("resized")
    scaled = _resize(image, image_size)
    if scaled.width != scaled.height:
        changes.append("cut to the middle square")
    file = io.BytesIO()
    _crop(scaled, image_size).save(file, format="PNG")
    return Fitted(file.getvalue(), tuple(changes))


def _opened(encoded: bytes | Path, ground: str) -> tuple[Image.Image, list[str]]:
    if not encoded:
        raise DataError("the image is empty.")
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as opened:
            return _plain(opened, ground)
    except DataError:
        raise
    except Exception as error:  # readers of broken files raise anything
        raise DataError(f"the image cannot be decoded ({type(error).__name__}).") from error


def _plain(image: Image.Image, ground: str) -> tuple[Image.Image, list[str]]:
    """Upright, opaque, 8 bits of red, green and blue; and what was done for that."""
    changes = []
    wide = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if wide and "transparency" in image.info:  # in 8 bits other colours would be the same
        raise DataError("the image has 16 bits a colour and one colour that is transparent. Save it with 8 bits.")
    if getattr(image, "n_frames", 1) > 1:
        changes.append("first of several frames")
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        changes.append("turned upright")
    if image.mode.startswith("I;16"):  # Pillow would take all above 255 for white
        image, wide = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)), True
    if wide:
        changes.append("16 bits a pixel to 8")
    if image.mode in ("I", "F"):
        raise DataError(f"the image has pixels of type {image.mode}, of which nothing says how bright they are.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
            changes.append(f"transparent pixels put on {ground}")
    return image.convert("RGB"), changes


def _resize(image: Image.Image, image_size: int) -> Image.Image:
    width, height = image.size
    if min(width, height) == image_size:
        return image
    if width <= height:
        size = (image_size, int(image_size * height / width))
    else:
        size = (int(image_size * width / height), image_size)
    return image.resize(size, Image.Resampling.BICUBIC)


def _crop(image: Image.Image, image_size: int) -> Image.Image:
    width, height = image.size
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    return image.crop((left, top, left + image_size, top + image_size))
