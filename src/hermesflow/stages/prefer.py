"""Stage `prefer`: make the chosen/rejected pairs a checkpoint is trained on, from its parent's scored candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hermesflow.config.experiment import BASE, Config
from hermesflow.config.reads import params_of
from hermesflow.config.sections import Preferences
from hermesflow.config.tree import preferences_of
from hermesflow.core.errors import DataError
from hermesflow.core.files import Layout, read_table, write_json, write_manifest, write_table
from hermesflow.core.images import read_form, read_images, write_images
from hermesflow.selfplay.preferences import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    Pair,
    Selection,
    Threshold,
    caption_pairs,
    captions_table,
    group_candidates,
    homologous_table,
    image_arrays,
    image_pairs,
    images_table,
    select,
)
from hermesflow.selfplay.sharding import CAPTION_TYPES, SAMPLED


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str) -> None:
    """Write `preferences/{preferences,captions,images}.parquet`, `images.npy` and `counts.json` of one checkpoint.

    `images.npy` holds chosen and rejected image of each pair of images, (N, 2, *generated).

    Raises:
        ArtifactError: candidates, scores or the parent's preferences are missing or broken.
        DataError: a candidate without a score, or no homologous pair is left.
    """
    entry = config.checkpoints[checkpoint]
    parent = layout.checkpoint(seed, entry.parent)
    folder = layout.checkpoint(seed, checkpoint) / "preferences"
    preferences = preferences_of(config, checkpoint)
    captions, images = selections(layout, preferences, seed=seed, checkpoint=entry.parent, candidates=entry.candidates)
    table, counts = homologous_table(captions, images, preferences.pairs)
    write_table(folder / "captions.parquet", captions_table(captions.pairs))
    write_table(folder / "images.parquet", images_table(images.pairs))
    form = read_form(parent / "candidates" / "images.npy")
    write_images(folder / "images.npy", list(images.pairs), image_arrays(images.pairs, form), form)
    write_table(folder / "preferences.parquet", table)
    write_json(folder / "counts.json", counts)
    inputs = [parent / "scores" / "captions.parquet", parent / "scores" / "images.parquet"]
    write_manifest(folder, config=params_of(config, "prefer", checkpoint), inputs=inputs, seed=seed)
    if table.empty:
        raise DataError(
            f"{folder / 'counts.json'}: no id of `{checkpoint}` has {_WANTED[preferences.pairs]}, so there is nothing "
            "to train on. Lower preferences.min_image_score, or sample more pairs or candidates."
        )


_WANTED = {
    "both": "both a pair of captions and a pair of images",
    "any": "a pair of captions or a pair of images",
}


def selections(
    layout: Layout, preferences: Preferences, *, seed: int, checkpoint: str, candidates: int | None
) -> tuple[Selection, Selection]:
    """The pairs of captions and of images that the scored candidates of a checkpoint give.

    Args:
        layout: where the experiment lies.
        preferences: what a pair must reach, and where rejected answers come from.
        seed: run seed.
        checkpoint: whose candidates, and whose own pairs they are compared with.
        candidates: use only the first so many; None is all.

    Raises:
        ArtifactError, DataError: as `run`.
    """
    folder = layout.checkpoint(seed, checkpoint)
    anew = checkpoint == BASE or preferences.rejected == "fresh"
    previous = {"captions": {}, "images": {}} if anew else _previous(folder / "preferences")
    captions = select(
        group_candidates(_scored_captions(folder), content="caption", first=candidates),
        previous["captions"],
        Threshold(min_margin=preferences.min_caption_margin),
    )
    images = select(
        group_candidates(_scored_images(folder), content="image", first=candidates),
        previous["images"],
        Threshold(min_score=preferences.min_image_score),
    )
    return captions, images


def _previous(folder: Path) -> dict[str, dict[str, Pair]]:
    """The pairs of captions and of images that the parent was trained on."""
    ids, images = read_images(folder / "images.npy")
    return {
        "captions": caption_pairs(
            read_table(folder / "captions.parquet", CAPTION_COLUMNS, numbers=CAPTION_COLUMNS[3:])
        ),
        "images": image_pairs(
            read_table(folder / "images.parquet", IMAGE_COLUMNS, numbers=IMAGE_COLUMNS[1:]),
            dict(zip(ids, images, strict=True)),
        ),
    }


def _scored_captions(folder: Path) -> pd.DataFrame:
    """Candidates of captions with their scores: id, candidate, caption, score, and `SAMPLED` where it is there."""
    captions = read_table(folder / "candidates" / "captions.parquet", list(CAPTION_TYPES))
    return _with_scores(
        captions[[c for c in (*CAPTION_TYPES, *SAMPLED) if c in captions]], folder / "scores" / "captions.parquet"
    )


def _scored_images(folder: Path) -> pd.DataFrame:
    """Candidates of images with their scores: id, candidate, image (bytes of its array), score."""
    ids, arrays = read_images(folder / "candidates" / "images.npy")
    n = arrays.shape[1]
    images = pd.DataFrame(
        {
            "id": np.repeat(np.asarray(ids, dtype=object), n),
            "candidate": np.tile(np.arange(n), len(ids)),
            "image": [image.tobytes() for row in arrays for image in row],
        }
    )
    return _with_scores(images, folder / "scores" / "images.parquet")


def _with_scores(candidates: pd.DataFrame, path: Path) -> pd.DataFrame:
    scores = read_table(path, ["id", "candidate", "score"], numbers=["score"])[["id", "candidate", "score"]]
    try:
        joined = candidates.merge(scores, on=["id", "candidate"], how="left", validate="one_to_one")
    except pd.errors.MergeError as error:
        raise DataError(f"{path}: a candidate is there twice ({error}); gather candidates and scores again.") from error
    if len(scores) != len(candidates) or joined["score"].isna().any():
        raise DataError(
            f"{path}: {len(scores)} scores, {joined['score'].notna().sum()} of which belong to one of the "
            f"{len(candidates)} candidates; gather candidates and scores of the same checkpoint again."
        )
    return joined
