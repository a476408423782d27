"""Images of other people's data as the model needs them: the official preprocessing, kept without loss."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from hermesflow.core.errors import DataError


def open_image(encoded: bytes | Path) -> Image.Image:
    """An image file, or the bytes of one, as RGB.

    Raises:
        DataError: empty, missing, truncated, or not an image.
    """
    if not encoded:
        raise DataError("the image is empty.")
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the image cannot be decoded ({type(error).__name__}).") from error


def fit_image(encoded: bytes, image_size: int) -> bytes:
    """Scale an image so that its shorter side is `image_size` (bicubic), cut out the middle square, encode as PNG.

    Args:
        encoded: a JPEG, PNG or other image file.
        image_size: pixels per side of the result.

    Returns:
        PNG bytes of an (image_size, image_size) RGB image; the same input gives the same bytes.

    Raises:
        DataError: empty, truncated, or not an image.

    Source: Show-o, `image_transform` of training/utils.py (torchvision Resize(bicubic) and CenterCrop on an RGB image).
    """
    image = open_image(encoded)
    file = io.BytesIO()
    _crop(_resize(image, image_size), image_size).save(file, format="PNG")
    return file.getvalue()


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
