"""A tiny world with a random Show-o, for the tests of sampling and scoring stages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.core.images import write_images
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import write_pairs
from hermesflow.models.backbone import new_model
from hermesflow.models.codecs import image_form
from hermesflow.stages import gather_candidates, gather_scores, sample, score

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"
PAIRS = 7  # with 2 to a batch: 4 batches, the last of one pair


def tiny_config() -> Config:
    config = load_config(SMOKE)
    images = replace(config.sampling.images, n=3, steps=2)
    captions = replace(config.sampling.captions, decodings=config.sampling.captions.decodings[:3], max_new_tokens=5)
    return replace(
        config,
        data=replace(config.data, pairs=PAIRS),
        sampling=replace(config.sampling, images=images, captions=captions, batch_pairs=2),
        scoring=replace(config.scoring, batch_images=6),
    )


def make_world(root: Path) -> tuple[Config, Layout]:
    """Pairs, image tokens and a base model, as the stages before sampling leave them."""
    config, layout = tiny_config(), Layout(root)
    rows = list(WORLD.make_pairs("pairs", PAIRS, config=config.data))
    write_pairs(layout.data("pairs"), rows)
    shape = (PAIRS, 1, config.num_image_tokens)
    codes = np.random.default_rng(0).integers(0, config.codebook_size, shape)
    write_images(
        layout.seen("pairs"),
        [row["id"] for row in rows],
        codes,
        image_form(config.data.image_size, config.image_tokenizer),
    )
    new_model(config, seed=0).save(layout.checkpoint(0, "base") / "model")
    return config, layout


def sample_all(config: Config, layout: Layout, *, shards: int) -> Path:
    for shard in range(shards):
        sample.run(config, layout, seed=0, checkpoint="base", shard=shard, shards=shards)
    gather_candidates.run(config, layout, seed=0, checkpoint="base", shards=shards)
    return layout.checkpoint(0, "base") / "candidates"


def score_all(config: Config, layout: Layout, *, shards: int) -> Path:
    for shard in range(shards):
        score.run(config, layout, seed=0, checkpoint="base", shard=shard, shards=shards)
    gather_scores.run(config, layout, seed=0, checkpoint="base", shards=shards)
    return layout.checkpoint(0, "base") / "scores"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # relative paths, as on the command line
    return make_world(Path("results"))
