"""The official preprocessing of images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hermesflow.core.errors import DataError
from hermesflow.data.images import fit_image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()


def fitted(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(fit_image(encoded(image), 32).png))


def ramp(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", [(64, 64), (100, 64), (64, 101), (20, 30), (17, 300)])
def test_the_result_is_a_square_of_the_middle(size):
    image = fitted(ramp(*size))
    assert image.size == (32, 32) and image.mode == "RGB" and image.format == "PNG"
    red, green, _ = np.asarray(image).astype(int).transpose(2, 0, 1)
    assert abs(red.mean() - 127) < 8 and abs(green.mean() - 127) < 8


def test_the_shorter_side_is_resized_bicubically_and_the_middle_cut_out():
    image = ramp(100, 64)
    by_hand = image.resize((50, 32), Image.Resampling.BICUBIC).crop((9, 0, 41, 32))
    np.testing.assert_array_equal(np.asarray(fitted(image)), np.asarray(by_hand))


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = ramp(32, 32)
    np.testing.assert_array_equal(np.asarray(fitted(image)), np.asarray(image))


def test_grey_and_transparent_images_become_rgb():
    for mode in ("L", "RGBA", "P"):
        assert fitted(ramp(40, 40).convert(mode)).mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"no image", encoded(ramp(64, 64), "JPEG")[:200]])
def test_what_is_no_image_is_an_error(content):
    with pytest.raises(DataError, match=r"the image (is empty|cannot be decoded)"):
        fit_image(content, 32)
