"""A tiny results folder that the stages prefer, reference and train can run on: random candidates, a random model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from hermesflow.artifacts import Layout, write_codes, write_table
from hermesflow.config import Config, load_config
from hermesflow.models.building import new_model
from hermesflow.models.showo import save_model
from hermesflow.sections import Training

SMOKE = Path(__file__).parents[1] / "config" / "smoke.yaml"
WORDS = ("red", "blue", "green", "circle", "square", "cross")


def small_config(**training: object) -> Config:
    """The smoke config with a training of 6 steps of 4 pairs, changed as told."""
    config = load_config(SMOKE)
    defaults = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1, "checkpoint_every": 2}
    return replace(config, training=replace(config.training, **{**defaults, **training}))


def caption_of(generator: np.random.Generator) -> str:
    return "a " + " ".join(generator.choice(WORDS, size=int(generator.integers(1, 5))))


def make_candidates(folder: Path, ids: list[str], *, n: int, config: Config, seed: int) -> None:
    """Random candidates with random scores of a checkpoint."""
    generator = np.random.default_rng(seed)
    rows = [(i, c) for i in ids for c in range(n)]
    table = pd.DataFrame(rows, columns=["id", "candidate"])
    captions = table.assign(caption=[caption_of(generator) for _ in rows])
    write_table(folder / "candidates" / "captions.parquet", captions)
    codes = generator.integers(0, config.codebook_size, size=(len(ids), n, config.num_image_tokens))
    write_codes(folder / "candidates" / "images.npy", ids, codes)
    for kind in ("captions", "images"):
        write_table(folder / "scores" / f"{kind}.parquet", table.assign(score=generator.random(len(rows)).round(2)))


def make_world(root: Path, config: Config, *, pairs: int = 7, n: int = 4, seed: int = 0) -> Layout:
    """Captions and tokens of the real images, a base model and its scored candidates."""
    layout = Layout(root)
    generator = np.random.default_rng(seed)
    ids = [f"pairs-{k}" for k in range(pairs)]
    captions = [caption_of(generator) for _ in ids]
    write_table(layout.data("pairs"), pd.DataFrame({"id": ids, "caption": captions}))
    codes = generator.integers(0, config.codebook_size, size=(pairs, 1, config.num_image_tokens))
    write_codes(layout.codes("pairs"), ids, codes)
    base = layout.checkpoint(0, "base")
    save_model(new_model(config, seed=seed), base / "model")
    make_candidates(base, ids, n=n, config=config, seed=seed + 1)
    return layout


def training(**changes: object) -> Training:
    """The training section of `small_config`."""
    return small_config(**changes).training
