"""Stage `base`: train the base model of one seed from scratch on split `base`, or take released weights."""

from __future__ import annotations

import pandas as pd
import torch

from hermesflow.config.experiment import BASE, Config, as_plain
from hermesflow.config.sections import Source
from hermesflow.core import seeding
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_codes, write_manifest, write_table
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import deterministic
from hermesflow.data.pairs import read_pairs
from hermesflow.models.conversion import converted, place
from hermesflow.models.showo.building import meta_model, new_model
from hermesflow.models.showo.model import describe_model, save_model
from hermesflow.tracking import runs
from hermesflow.training.pretraining import Example, batches, optimiser_of, train_step

LOG_EVERY = 20  # steps between rows of history.csv


def run(config: Config, layout: Layout, *, seed: int) -> None:
    """Write `seed{n}/base/model`; released weights are the same for all seeds.

    Raises:
        ArtifactError: the image tokens are not those of the pairs, or the weights not those of the model.
    """
    torch.set_num_threads(config.runtime.train_threads)
    if config.weights.language_model is not None:
        take(config, layout, config.weights.language_model, seed=seed)
        return
    deterministic()
    assert config.base_training is not None
    settings = config.base_training
    pairs = read_pairs(layout.data("base")).remove_columns("image")
    ids, codes = read_codes(layout.codes("base"))
    if list(pairs["id"]) != ids:
        raise ArtifactError(
            f"{layout.codes('base')}: ids differ from those of {layout.data('base')}; run stage encode again."
        )
    examples = [Example(row["caption"], tuple((q["question"], q["answer"]) for q in row["questions"])) for row in pairs]
    model = new_model(config, seed=seeding.seed_of(seed, BASE, "init")).train()
    stream = batches(
        examples,
        torch.from_numpy(codes[:, 0].astype("int64")),
        model,
        settings,
        seeding.generator(seed, BASE, "batches"),
    )
    optimiser, schedule = optimiser_of(model, settings)
    history = []
    run = runs.open_run(config, layout, seed, BASE)
    captions = pairs.select_columns(["id", "caption", "kind"]).to_pandas()
    run.log_inputs("base pairs", captions, source=layout.data("base"), context="training")
    progress = Progress(settings.steps, f"base model, seed {seed}", "step")
    for step in range(1, settings.steps + 1):
        metrics = train_step(model, next(stream), optimiser, schedule, settings)
        if step % LOG_EVERY == 0 or step == settings.steps:
            history.append({"step": step, **metrics})
            run.log(metrics, step=step)
        progress.advance(1)
    folder = layout.checkpoint(seed, BASE) / "model"
    save_model(model.eval(), folder)
    write_table(folder / "history.csv", pd.DataFrame(history))
    write_manifest(folder, config=as_plain(settings), inputs=[layout.data("base"), layout.codes("base")], seed=seed)


def take(config: Config, layout: Layout, source: Source, *, seed: int) -> None:
    """Write the same files from released weights; the history is empty.

    Raises:
        ArtifactError: the weights are not those of the model in the config.
    """
    runs.open_run(config, layout, seed, BASE)
    model, folder = meta_model(config), layout.checkpoint(seed, BASE) / "model"
    weights = converted(source, model, cache=layout.weights)
    place(weights, folder / "model.safetensors")
    describe_model(model, folder)
    write_table(folder / "history.csv", pd.DataFrame({"step": []}))
    plain = {"language_model": as_plain(config.language_model), "weights": as_plain(source)}
    write_manifest(folder, config=plain, inputs=[weights], seed=seed)
