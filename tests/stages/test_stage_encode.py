"""Stage `encode`: images of every split as they are seen and generated, an empty one too."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.core.errors import ArtifactError, NotFiniteError
from hermesflow.core.files import Layout
from hermesflow.core.finite import check_finite
from hermesflow.core.images import ImageForm, read_images
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import read_pairs, write_pairs
from hermesflow.stages import encode


class Codec:
    """Sees other things than it generates, as the codec of a backbone may."""

    seen = ImageForm("codes", (4,), "uint16")
    generated = ImageForm("latents", (2, 3, 3), "float16")
    image_size = 48

    def see(self, images: np.ndarray) -> torch.Tensor:
        return torch.full((len(images), *self.seen.shape), 7)

    def encode(self, images: np.ndarray) -> torch.Tensor:
        return torch.full((len(images), *self.generated.shape), 0.5)


@pytest.fixture
def layout(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "load_codec", lambda folder, *, device: Codec())
    return Layout(tmp_path)


def write_splits(config: Config, layout: Layout, *, base: int) -> None:
    for split in encode.SPLITS:
        write_pairs(layout.data(split), WORLD.make_pairs(split, base if split == "base" else 3, config=config.data))


def test_an_empty_base_split_has_no_tokens(layout):
    config = load_config("config/smoke.yaml")
    write_splits(config, layout, base=0)
    encode.run(config, layout)
    ids, codes = read_images(layout.seen("base"))
    assert ids == [] and len(codes) == 0
    assert read_images(layout.seen("pairs"))[1].shape == (3, 1, 4)
    assert read_images(layout.generated, Codec.generated)[1].shape == (0, 1, 2, 3, 3)


def test_images_are_stored_as_seen_and_those_of_base_as_generated(layout):
    config = load_config("config/smoke.yaml")
    write_splits(config, layout, base=5)
    encode.run(config, layout)
    for split in encode.SPLITS:
        ids, seen = read_images(layout.seen(split), Codec.seen)
        assert ids == list(read_pairs(layout.data(split))["id"])
        assert np.array_equal(seen, np.full((len(ids), 1, 4), 7))
    ids, generated = read_images(layout.generated, Codec.generated)
    assert ids == read_images(layout.seen("base"))[0]
    assert np.array_equal(generated, np.full((5, 1, 2, 3, 3), 0.5))


class Blind(Codec):
    """Its network overflows where an image is bright."""

    def see(self, images: np.ndarray) -> torch.Tensor:
        check_finite(torch.tensor([np.nan if image.max() > 250 else 0.0 for image in images]), "image {}".format)
        return super().see(images)

    def encode(self, images: np.ndarray) -> torch.Tensor:
        return torch.full((len(images), *self.generated.shape), 1e5)  # no float16


def test_the_image_whose_latents_are_not_finite_is_named_and_nothing_is_written(layout, monkeypatch):
    config = load_config("config/smoke.yaml")
    write_splits(config, layout, base=3)
    rows = list(WORLD.make_pairs("base", 3, config=config.data))
    file = io.BytesIO()
    Image.new("RGB", (config.data.image_size,) * 2, (255, 255, 255)).save(file, format="PNG")
    rows[1] = {**rows[1], "image": {"bytes": file.getvalue(), "path": None}}
    write_pairs(layout.data("base"), rows)
    monkeypatch.setattr(encode, "load_codec", lambda folder, *, device: Blind())
    with pytest.raises(NotFiniteError, match=rf"base\.parquet, pair `{rows[1]['id']}`: image 0 is nan"):
        encode.run(config, layout)
    assert not layout.seen("base").exists()


def test_latents_that_their_form_cannot_hold_are_named(layout, monkeypatch):
    config = load_config("config/smoke.yaml")
    write_splits(config, layout, base=3)
    monkeypatch.setattr(Codec, "encode", Blind.encode)
    first = read_pairs(layout.data("base"))["id"][0]
    with pytest.raises(ArtifactError, match=rf"image `{first}` holds 100000\.0, which is no float16"):
        encode.run(config, layout)
    assert not layout.generated.exists()
