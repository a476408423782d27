"""Stage `tokenizer`: train the image tokenizer from scratch on the images of split `base`, or take released weights."""

from __future__ import annotations

import pandas as pd
import torch

from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.config.sections import Source
from hermesflow.core.files import Layout, write_manifest, write_table
from hermesflow.core.seeding import deterministic
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.models.backbone import meta_codec, train_codec
from hermesflow.models.conversion import converted, place


def run(config: Config, layout: Layout) -> None:
    """Write `tokenizer/`: model.safetensors, config.json, history.csv, manifest.json."""
    torch.set_num_threads(config.runtime.tokenizer_threads)
    if config.weights.image_tokenizer is not None:
        take(config, layout, config.weights.image_tokenizer)
        return
    assert config.tokenizer_training is not None
    deterministic()
    settings = config.tokenizer_training
    codec, history = train_codec(config, images_of(read_pairs(layout.data("base"))))
    codec.save(layout.tokenizer)
    write_table(layout.tokenizer / "history.csv", history)
    made_with = params_of(config, "tokenizer")
    write_manifest(layout.tokenizer, config=made_with, inputs=[layout.data("base")], seed=settings.seed)


def take(config: Config, layout: Layout, source: Source) -> None:
    """Write the same files from released weights; the history is empty.

    Raises:
        ArtifactError: the weights are not those of the tokenizer in the config.
    """
    codec = meta_codec(config)
    weights = converted(source, codec.network, cache=layout.weights)
    place(weights, layout.tokenizer / "model.safetensors")
    codec.describe(layout.tokenizer)
    write_table(layout.tokenizer / "history.csv", pd.DataFrame({"step": []}))
    write_manifest(layout.tokenizer, config=params_of(config, "tokenizer"), inputs=[weights])
