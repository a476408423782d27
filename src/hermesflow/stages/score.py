"""Stage `score`: preference scores of one shard of a checkpoint's candidates, by that checkpoint itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hermesflow.config.experiment import Config
from hermesflow.config.sections import CaptionMeasure, Scoring, VqaMethod
from hermesflow.core.errors import naming
from hermesflow.core.files import Layout, read_table, write_table
from hermesflow.core.images import as_tensor, read_images
from hermesflow.core.progress import Progress
from hermesflow.data.pairs import read_pairs
from hermesflow.data.worlds.questions import Question
from hermesflow.models.backbone import ImageCodec, UnifiedModel, load_codec, load_model, seen_of
from hermesflow.models.sentence_encoder import SentenceEncoder, load_choice_encoder, load_encoder
from hermesflow.selfplay.scoring import answer_credits, caption_scores, sum_per_image
from hermesflow.selfplay.sharding import (
    CAPTION_TYPES,
    IMAGE_TYPES,
    SCORE_TYPES,
    check_ids,
    pairs_per_batch,
    shard_batches,
    shard_folder,
)


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str, shard: int = 0, shards: int = 1) -> None:
    """Write `scores/shards/{shard}-of-{shards}/{captions,images}.parquet` of one checkpoint.

    Raises:
        ArtifactError: candidates are missing, truncated or lack a pair.
        ConfigError: the sentence encoder is not to be found.
        NotFiniteError: a logit, a log-prob, a vector or a score is not.
    """
    torch.set_num_threads(config.runtime.shard_threads)
    pairs = read_pairs(layout.data("pairs")).remove_columns("image")
    row_of = {row["id"]: row for row in pairs}
    folder = layout.checkpoint(seed, checkpoint)
    captions_of, images_by_id = read_candidates(folder / "candidates", list(row_of))
    runtime = config.runtime
    model = load_model(folder / "model", device=runtime.device, precision=runtime.inference_precision)
    codec = cache(partial(load_codec, layout.tokenizer, device=runtime.device))  # read once, and only if asked for
    encoder = load_encoder(config.scoring.encoder, device=config.runtime.device)
    choices = load_choice_encoder(config.scoring, encoder, device=config.runtime.device)
    batches = shard_batches(list(row_of), batch=pairs_per_batch(config), shard=shard, shards=shards)
    progress = Progress(sum(map(len, batches)), f"score {checkpoint}, seed {seed}, shard {shard} of {shards}", "pair")
    measure, method = config.scoring.caption_measure, config.scoring.vqa_method
    tables: dict[str, list[pd.DataFrame]] = {"captions": [], "images": []}
    for batch in batches:
        references = {id_: row_of[id_]["caption"] for id_ in batch}
        table = pd.concat([captions_of[id_] for id_ in batch])
        tables["captions"].append(score_captions(table, references, measure=measure, encoder=encoder))
        questions = {id_: questions_of_row(row_of[id_]) for id_ in batch}
        with naming(f"score {checkpoint}, seed {seed}, candidates of pairs {batch}"):
            tables["images"].append(
                score_images(
                    *(model, codec, images_by_id, questions), method=method, settings=config.scoring, encoder=choices
                )
            )
        progress.advance(len(batch))
    out = shard_folder(folder / "scores", shard=shard, shards=shards)
    for kind, types in (("captions", SCORE_TYPES), ("images", IMAGE_TYPES)):
        table = pd.concat([pd.DataFrame(columns=list(types)).astype(types), *tables[kind]])
        write_table(out / f"{kind}.parquet", table[list(types)].astype(types), numbers=["score"])


def read_candidates(folder: Path, ids: Sequence[str]) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    """Gathered candidates by pair id: captions (columns of `CAPTION_TYPES`) and images (n, *generated).

    Raises:
        ArtifactError: missing, truncated, or not of these pairs.
    """
    captions = read_table(folder / "captions.parquet", list(CAPTION_TYPES))
    check_ids(folder / "captions.parquet", list(captions["id"].unique()), ids)
    image_ids, images = read_images(folder / "images.npy")
    check_ids(folder / "images.npy", image_ids, ids)
    return {str(i): table for i, table in captions.groupby("id")}, dict(zip(image_ids, images, strict=True))


def questions_of_row(row: Mapping[str, Any]) -> list[Question]:
    """The questions of one row of the pair schema."""
    return [Question(q["question"], tuple(q["choices"]), q["answer"], q["kind"]) for q in row["questions"]]


def score_captions(
    candidates: pd.DataFrame, references: Mapping[str, str], *, measure: CaptionMeasure, encoder: SentenceEncoder
) -> pd.DataFrame:
    """The caption score s(y, y_k) of every candidate against the caption of its own pair, joined by id.

    Args:
        candidates: columns id, candidate, caption.
        references: true caption by pair id.
        measure: the caption measure.
        encoder: for the measure `embedding`.

    Returns:
        Columns of `SCORE_TYPES`, rows as in `candidates`.

    Source: HermesFlow section 3.2.
    """
    truths = [references[id_] for id_ in candidates["id"]]
    scores = caption_scores(list(candidates["caption"]), truths, measure=measure, encoder=encoder)
    return candidates[["id", "candidate"]].assign(score=scores).reset_index(drop=True)


def score_images(
    model: UnifiedModel,
    codec: Callable[[], ImageCodec],
    images_by_id: Mapping[str, np.ndarray],
    questions: Mapping[str, Sequence[Question]],
    *,
    method: VqaMethod,
    settings: Scoring,
    encoder: SentenceEncoder,
) -> pd.DataFrame:
    """Self-VQA accuracy of every candidate image on the questions of its own pair, joined by id.

    Args:
        model: answers about its own images.
        codec: gives the image tokenizer where the model sees images in another form than it generates them.
        images_by_id: (n, *generated) candidates by pair id; may hold more pairs.
        questions: questions by pair id, for the pairs to score.
        method: self-VQA method.
        settings: lengths of answers.
        encoder: maps free answers to choices.

    Returns:
        Columns of `IMAGE_TYPES`; a pair without questions scores 0.

    Source: HermesFlow section 3.2, Acc(x_k).
    """
    ids = list(questions)
    keys = [(id_, k) for id_ in ids for k in range(len(images_by_id[id_]))]
    images = as_tensor(np.concatenate([np.asarray(images_by_id[id_]) for id_ in ids]))
    seen = seen_of(model, images, codec).to(model.device)
    pairs = [(image, q) for image, (id_, _) in enumerate(keys) for q in questions[id_]]
    owners = torch.tensor([image for image, _ in pairs], dtype=torch.long)
    flat = [q for _, q in pairs]
    credits = answer_credits(model, seen, owners, flat, method=method, settings=settings, encoder=encoder)
    right, total = sum_per_image(credits, owners, len(keys))
    table = pd.DataFrame(keys, columns=["id", "candidate"])
    return table.assign(score=right / np.maximum(total, 1), right=right, questions=total)
