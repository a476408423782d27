"""A tiny results folder that the stages prefer, reference and train can run on: random candidates, a random model."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from hermesflow.config.experiment import Config, as_plain
from hermesflow.config.load import load_config
from hermesflow.config.sections import Training
from hermesflow.config.tree import reference_of
from hermesflow.core.files import Layout, write_table
from hermesflow.core.images import ImageForm, write_images
from hermesflow.models.backbone import meta_model, new_model
from hermesflow.models.codecs import image_form
from hermesflow.stages import reference
from hermesflow.stages.reference import load_pairs
from hermesflow.training.pairs import HomologousPairs

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"
WORDS = ("red", "blue", "green", "circle", "square", "cross")


def small_config(**training: object) -> Config:
    """The smoke config with a training of 6 steps of 4 pairs, changed as told."""
    config = load_config(SMOKE)
    defaults = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1, "checkpoint_every": 2}
    return replace(config, training=replace(config.training, **{**defaults, **training}))


def form_of(config: Config) -> ImageForm:
    return image_form(config.data.image_size, config.image_tokenizer)


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
    write_images(folder / "candidates" / "images.npy", ids, codes, form_of(config))
    for kind in ("captions", "images"):
        write_table(folder / "scores" / f"{kind}.parquet", table.assign(score=generator.random(len(rows)).round(2)))


def make_world(
    root: Path, config: Config, *, pairs: int = 7, n: int = 4, seed: int = 0, ids: list[str] | None = None
) -> Layout:
    """Captions and tokens of the real images, a base model and its scored candidates."""
    layout = Layout(root)
    generator = np.random.default_rng(seed)
    ids = ids or [f"pairs-{k}" for k in range(pairs)]
    captions = [caption_of(generator) for _ in ids]
    write_table(layout.data("pairs"), pd.DataFrame({"id": ids, "caption": captions}))
    codes = generator.integers(0, config.codebook_size, size=(pairs, 1, config.num_image_tokens))
    write_images(layout.seen("pairs"), ids, codes, form_of(config))
    base = layout.checkpoint(0, "base")
    new_model(config, seed=seed).save(base / "model")
    make_candidates(base, ids, n=n, config=config, seed=seed + 1)
    return layout


def pairs_of(layout: Layout, checkpoint: str = "pair-1") -> HomologousPairs:
    """The preference pairs of a checkpoint, as training loads them."""
    config = small_config()
    return load_pairs(config, layout, meta_model(config), seed=0, checkpoint=checkpoint)


def score_reference(config: Config, layout: Layout, checkpoint: str) -> None:
    """Stage `reference` for the training of a checkpoint."""
    asked = reference_of(config, checkpoint)
    reference.run(config, layout, seed=0, checkpoint=asked.checkpoint, variant=asked.variant)


def training(**changes: object) -> Training:
    """The training section of `small_config`."""
    return small_config(**changes).training


def environment() -> dict[str, str]:
    """For a process that imports this module: one thread, and the package that is being tested."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


class CommandLine:
    """`python -m hermesflow STAGE` on one checkpoint, in a folder of its own and without MLflow.

    Args:
        folder: holds the config file and `results/smoke`.
        runtime: changes of the smoke config's section `runtime`.
        training: changes of that of `small_config`.
    """

    def __init__(self, folder: Path, *, runtime: dict[str, object], training: dict[str, object]) -> None:
        self.folder = folder
        plain = yaml.safe_load(SMOKE.read_text())
        plain["training"] |= {**as_plain(small_config().training), **training}
        plain["runtime"] |= runtime
        (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
        (folder / "mlflow.py").write_text("raise ImportError('not in this test')\n")

    def environment(self) -> dict[str, str]:
        own = environment()
        return {**own, "PYTHONPATH": os.pathsep.join([str(self.folder), own["PYTHONPATH"]])}

    def start(self, *stage: str, checkpoint: str = "pair-1", **variables: str) -> subprocess.Popen[str]:
        of = ["--checkpoint=base", "--variant=all-6"] if "reference" in stage else [f"--checkpoint={checkpoint}"]
        options = ["--config=config.yaml", "--seed=0", *of]
        command = [sys.executable, "-m", "hermesflow", *stage, *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, env={**self.environment(), **variables}, text=True, **pipes)

    def run(self, *stage: str, **variables: str) -> str:
        """What it said on stderr, having ended well."""
        told = self.start(*stage, **variables)
        error = told.communicate(timeout=300)[1]
        assert told.returncode == 0, error[-3000:]
        return error
