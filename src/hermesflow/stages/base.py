"""Stage `base`: train the base model of one seed from scratch on split `base`, or take released weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from torch import Tensor

from hermesflow.config.experiment import BASE, Config
from hermesflow.config.reads import params_of
from hermesflow.config.sections import Source
from hermesflow.core import seeding
from hermesflow.core.errors import ArtifactError, naming
from hermesflow.core.files import Layout, new_manifest, save_manifest, write_manifest, write_table
from hermesflow.core.images import ImageForm, as_tensor, read_images
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import deterministic
from hermesflow.data.pairs import read_pairs
from hermesflow.models.backbone import UnifiedModel, meta_model, new_model
from hermesflow.models.conversion import converted, place
from hermesflow.models.text_tokenizers import TRAINED, train_tokenizer
from hermesflow.tracking import runs
from hermesflow.training.pretraining import Example, batches, optimizers_of, text_lengths, train_step

LOG_EVERY = 20  # steps between rows of history.csv
MEND = "Lower base_training.learning_rate or max_grad_norm; training starts anew, for a base model keeps no states."


def run(config: Config, layout: Layout, *, seed: int) -> None:
    """Write `seed{n}/base/model`; released weights are the same for all seeds.

    Raises:
        ArtifactError: the image tokens are not those of the pairs, or the weights not those of the model.
        NotFiniteError: a gradient is not.
    """
    torch.set_num_threads(config.runtime.train_threads)
    if config.weights.language_model is not None:
        take(config, layout, config.weights.language_model, seed=seed)
        return
    deterministic()
    assert config.base_training is not None
    settings = config.base_training
    pairs = read_pairs(layout.data("base")).remove_columns("image")
    examples = [Example(row["caption"], tuple((q["question"], q["answer"]) for q in row["questions"])) for row in pairs]
    model = _new_model(config, examples, seed=seeding.seed_of(seed, BASE, "init"))
    seen, images = (
        _images(path, list(pairs["id"]), form)
        for path, form in ((layout.seen("base"), model.seen), (layout.generated, model.generated))
    )
    model.train()
    lengths, cut = text_lengths(examples, model)
    stream = batches(examples, seen, images, model, lengths, settings, seeding.generator(seed, BASE, "batches"))
    optimizers = optimizers_of(model, settings)
    history = []
    inputs = [layout.data("base"), layout.seen("base"), layout.generated]
    manifest = new_manifest(config=params_of(config, "base", BASE), inputs=inputs, seed=seed)
    if cut:
        manifest["cut_texts"] = cut
        print(f"{cut:,} different texts are longer than max_text_tokens: they are cut, and their ends not trained.")
    progress = Progress(settings.steps, f"base model, seed {seed}", "step")
    with runs.open_run(layout, seed, BASE, manifest) as tracked:
        for step in range(1, settings.steps + 1):
            with naming(f"base model, seed {seed}, step {step}", MEND):
                metrics = train_step(model, next(stream), optimizers, settings)
            if step % LOG_EVERY == 0 or step == settings.steps:
                history.append({"step": step, **metrics})
                tracked.log(metrics, step=step)
            progress.advance(1)
    folder = layout.checkpoint(seed, BASE) / "model"
    model.eval()
    model.save(folder)
    write_table(folder / "history.csv", pd.DataFrame(history))
    save_manifest(folder, manifest)


def _new_model(config: Config, examples: Sequence[Example], *, seed: int) -> UnifiedModel:
    """A model with random weights, and with a text tokenizer made here where the config says so."""
    settings = config.language_model
    if settings.text_tokenizer != TRAINED:
        return new_model(config, seed=seed)
    texts = [settings.caption_prompt, settings.question_template.format("")] * 2  # what comes once is no token
    texts += [text for one in examples for text in (one.caption, *chain.from_iterable(one.questions))]
    with TemporaryDirectory() as folder:
        train_tokenizer(texts, Path(folder))
        return new_model(replace(config, language_model=replace(settings, text_tokenizer=folder)), seed=seed)


def take(config: Config, layout: Layout, source: Source, *, seed: int) -> None:
    """Write the same files from released weights; the history is empty.

    Raises:
        ArtifactError: the weights are not those of the model in the config.
    """
    model, folder = meta_model(config), layout.checkpoint(seed, BASE) / "model"
    weights = converted(source, model, cache=layout.weights)
    place(weights, folder / "model.safetensors")
    model.describe(folder)
    write_table(folder / "history.csv", pd.DataFrame({"step": []}))
    write_manifest(folder, config=params_of(config, "base", BASE), inputs=[weights], seed=seed)


def _images(path: Path, ids: list[str], form: ImageForm) -> Tensor:
    """Images of the pairs of split `base`, (N, *form.shape).

    Raises:
        ArtifactError: they are not those of the pairs, or of another form than the model's.
    """
    stored, images = read_images(path, form)
    if stored != ids:
        raise ArtifactError(f"{path}: ids differ from those of the pairs of split base; run stage encode again.")
    return as_tensor(images[:, 0])
