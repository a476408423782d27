"""Training of the image tokenizer: what it trains on, its loss terms, and that it separates tiles."""

import dataclasses

import numpy as np
import pytest
import torch

from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import write_pairs
from hermesflow.models import codec_training
from hermesflow.models.backbone import load_codec
from hermesflow.models.codecs import Reconstruction, to_pixels
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.stages import tokenizer


@pytest.fixture(scope="module")
def config():
    config = load_config("config/smoke.yaml")
    settings = dataclasses.replace(config.tokenizer_training, steps=150, batch_size=16)
    return dataclasses.replace(config, tokenizer_training=settings)


def test_different_tiles_once_each_in_order():
    tiles = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3), dtype=np.uint8)
    images = np.concatenate([np.concatenate([tiles[0], tiles[1]], 1), np.concatenate([tiles[1], tiles[2]], 1)], 0)[None]
    assert np.array_equal(codec_training.different_tiles(images, 2)[0], tiles)
    whole = codec_training.different_tiles(np.concatenate([images, images]), 0)[0]
    assert np.array_equal(whole, images)


def test_separation_counts_bits_beyond_the_margin():
    signs = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, -1]]).view(3, 4, 1, 1)
    pixels = torch.zeros(3, 3, 2, 2)
    done = Reconstruction(pixels + 0.5, signs, torch.tensor(0.0), torch.tensor(0.0))
    weights = torch.ones(3, 1, 2, 2)
    weights[0] = 4.0
    terms = codec_training.loss_terms(done, pixels, weights, margin=2.0)
    assert terms["separation"].item() == pytest.approx((2 + 2) / 3)  # rows 0 and 1 agree by 2 bits, 0 allowed
    assert codec_training.loss_terms(done, pixels, weights, margin=1.0)["separation"].item() == 0.0
    assert terms["l1"].item() == pytest.approx(0.5 * (4 + 1 + 1) / 3)


def test_background_is_the_most_frequent_colour():
    tiles = np.full((2, 2, 2, 3), 9, dtype=np.uint8)
    tiles[0, 0, 0] = 200
    assert codec_training._background(tiles, np.ones(len(tiles)), None).flatten().tolist() == [False] + [True] * 7


def test_training_learns_to_tell_tiles_apart(config):
    tiles = np.zeros((16, 12, 12, 3), dtype=np.uint8)
    tiles[:] = np.random.default_rng(0).integers(0, 256, (16, 1, 1, 3))
    tiles[8:, :6] = 240
    torch.manual_seed(0)
    model = MagVitV2(config.image_tokenizer)
    history = codec_training.train(model, tiles, np.ones(16, dtype=np.int64), config.tokenizer_training)
    assert history["l1"].iloc[-1] < 0.5 * history["l1"].iloc[0]
    with torch.inference_mode():
        assert len(model.encode(to_pixels(tiles)).unique()) == 16


def test_stage_writes_the_same_files_twice(config, tmp_path):
    config = dataclasses.replace(
        config, tokenizer_training=dataclasses.replace(config.tokenizer_training, steps=4, batch_size=16)
    )
    files = {}
    for name in "ab":
        layout = Layout(tmp_path / name)
        write_pairs(layout.data("base"), WORLD.make_pairs("base", 40, config=config.data))
        tokenizer.run(config, layout)
        names = ("model.safetensors", "config.json", "history.csv")
        files[name] = [(layout.tokenizer / file).read_bytes() for file in names]
        assert (layout.tokenizer / "manifest.json").exists()
    assert files["a"] == files["b"]
    codec = load_codec(Layout(tmp_path / "a").tokenizer, device="cpu")
    assert codec.encode(np.zeros((1, 48, 48, 3), dtype=np.uint8)).shape == (1, config.num_image_tokens)
