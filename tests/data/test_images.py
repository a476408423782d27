"""Image files of strangers: upright, opaque, 8 bits of red, green and blue, and every change told."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hermesflow.core.errors import DataError
from hermesflow.data.images import fit_image, open_image
from hermesflow.data.pairs import images_of, read_pairs
from tests.support.folder_world import run, with_metadata
from tests.support.journeydb_world import TOTAL, jpeg

CASES = Path(__file__).parent / "cases"
RED_ABOVE_BLUE = np.array([[(200, 30, 30)] * 24] * 16 + [[(30, 90, 200)] * 24] * 16, dtype=np.uint8)
BACK = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
BACK |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def sideways(orientation: int, form: str = "JPEG") -> bytes:
    """Red above blue, as a camera stores it that was held another way."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RED_ABOVE_BLUE)
    turned = image.transpose(getattr(Image.Transpose, BACK[orientation])) if orientation in BACK else image
    return encoded(turned, form, exif=exif)


def is_red_above_blue(image: Image.Image) -> bool:
    pixels = np.asarray(image).astype(int)
    above, below = (part.reshape(-1, 3).mean(0) for part in np.array_split(pixels, 2))
    return above[0] > 150 > 60 > above[2] and below[2] > 150 > 60 > below[0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 0, 9])
def test_a_photograph_is_turned_upright_wherever_it_is_read(orientation, form):
    content = sideways(orientation, form)
    assert is_red_above_blue(open_image(content))
    png, changes = fit_image(content, 16)
    assert is_red_above_blue(Image.open(io.BytesIO(png)))
    assert ("turned upright" in changes) == (orientation in BACK)


def test_a_file_of_a_path_is_turned_as_its_bytes_are():
    path = CASES / "exif-sideways" / "1.jpg"
    assert is_red_above_blue(open_image(path))
    assert open_image(path).tobytes() == open_image(path.read_bytes()).tobytes()


def clear(mode: str) -> bytes:
    """A black square in the middle of nothing."""
    alpha = np.zeros((30, 30), dtype=np.uint8)
    alpha[10:20, 10:20] = 255
    image = Image.merge("RGBA", [*[Image.new("L", (30, 30))] * 3, Image.fromarray(alpha)])
    if mode == "P":
        palette = Image.fromarray((alpha // 255).astype(np.uint8), "L").convert("P")
        palette.putpalette([0, 0, 0, 0, 0, 0])
        return encoded(palette, transparency=0)
    return encoded(image.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("ground", "colour"), [("#ffffff", (255, 255, 255)), ("#804020", (128, 64, 32))])
def test_transparent_pixels_show_the_ground(mode, ground, colour):
    png, changes = fit_image(clear(mode), 30, ground=ground)
    image = Image.open(io.BytesIO(png))
    assert image.getpixel((0, 0)) == colour and image.getpixel((15, 15)) == (0, 0, 0)
    assert changes == (f"transparent pixels put on {ground}",)


def test_what_could_be_transparent_and_is_not_is_no_change():
    assert fit_image(encoded(Image.new("RGBA", (9, 9), "#102030ff")), 9).changes == ()


def test_half_transparent_pixels_are_mixed_with_the_ground():
    assert open_image(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))).getpixel((0, 0)) == (127, 127, 127)


def test_sixteen_bits_keep_their_brightness_and_what_has_none_is_refused():
    grey = Image.fromarray(np.full((4, 4), 0x8042, dtype=np.uint16))
    png, changes = fit_image(encoded(grey), 4)
    assert Image.open(io.BytesIO(png)).getpixel((0, 0)) == (0x80,) * 3 and changes == ("16 bits a pixel to 8",)
    with pytest.raises(DataError, match="pixels of type F"):
        open_image(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_of_a_film_the_first_frame_is_taken_and_told():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#ff0000", "#0000ff")]
    png, changes = fit_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 8)
    assert Image.open(io.BytesIO(png)).getpixel((0, 0)) == (255, 0, 0) and changes == ("first of several frames",)


def test_scaling_and_cutting_are_told():
    assert fit_image(jpeg(1, (40, 28)), 28).changes == ("cut to the middle square",)
    assert fit_image(jpeg(1, (40, 40)), 28).changes == ("resized",)


@pytest.mark.parametrize("cut", [0, 1, 20, 200])
def test_a_broken_file_is_refused(cut):
    with pytest.raises(DataError, match=r"the image (is empty|cannot be decoded)"):
        open_image(sideways(6)[:cut])


def test_what_was_done_to_images_stands_in_the_selection(tmp_path):
    images = [sideways(6), clear("RGBA")] + [jpeg(n, (24, 24)) for n in range(TOTAL - 2)]
    made = [
        {
            "name": f"{n:03d}",
            "caption": f"Picture {n}",
            "questions": [{"question": "What?", "choices": ["a", "b"], "answer": "a"}],
            "image": image,
        }
        for n, image in enumerate(images)
    ]
    with_metadata(tmp_path / "own", made)
    layout = run(tmp_path / "own", tmp_path, background="#00ff00")
    told = json.loads((layout.root / "data" / "selection.json").read_text())
    assert told["records"] == {"read": TOTAL, "drawn": TOTAL, "set aside": 0, "not needed": 0}
    assert told["changes"] == {
        "turned upright": 1, "transparent pixels put on #00ff00": 1, "resized": 1, "cut to the middle square": 1,
    }  # fmt: skip
    rows = [read_pairs(layout.data(split)) for split in told["splits"] if told["splits"][split]]
    corners = {id_: images_of(part)[k, 0, 0].tolist() for part in rows for k, id_ in enumerate(part["id"])}
    assert corners["001"] == [0, 255, 0]


def sixteen(colour: int, channels: int, clear: bytes = b"") -> bytes:
    """A PNG of 16 bits a colour, all 0x8042, which Pillow cannot write; `clear` is its transparent colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress((b"\0" + b"\x80\x42" * channels * 4) * 4))
    return b"\x89PNG\r\n\x1a\n" + head + (chunk(b"tRNS", clear) if clear else b"") + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_told_whatever_the_colours(colour, channels):
    assert fit_image(sixteen(colour, channels), 4).changes[0] == "16 bits a pixel to 8"


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3)])
def test_a_transparent_colour_of_sixteen_bits_is_refused(colour, channels):
    """In 8 bits it was shown, without a word."""
    with pytest.raises(DataError, match=r"one colour that is transparent\. Save it with 8 bits"):
        open_image(sixteen(colour, channels, b"\x80\x42" * channels))
