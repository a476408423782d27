"""Stage `sample`: candidates of one shard of the pairs, n captions of each image and n images of each caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Sampling
from hermesflow.core.errors import naming
from hermesflow.core.files import Layout, write_table
from hermesflow.core.images import as_tensor, read_images, write_images
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import generator
from hermesflow.data.pairs import read_pairs
from hermesflow.models.backbone import UnifiedModel, load_model
from hermesflow.selfplay.sampling import sample_tokens
from hermesflow.selfplay.sharding import CAPTION_TYPES, SAMPLED, check_ids, shard_batches, shard_folder


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str, shard: int = 0, shards: int = 1) -> None:
    """Write `candidates/shards/{shard}-of-{shards}/{captions.parquet, images.npy}` of one checkpoint.

    Raises:
        ArtifactError: the image tokens are not those of the pairs.
        NotFiniteError: a logit is not.
    """
    torch.set_num_threads(config.runtime.shard_threads)
    pairs = read_pairs(layout.data("pairs"))
    ids = list(pairs["id"])
    caption_of = dict(zip(ids, pairs["caption"], strict=True))
    batches = shard_batches(ids, batch=config.sampling.batch_pairs, shard=shard, shards=shards)
    folder = layout.checkpoint(seed, checkpoint)
    runtime = config.runtime
    model = load_model(folder / "model", device=runtime.device, precision=runtime.inference_precision)
    seen_ids, seen = read_images(layout.seen("pairs"), model.seen)
    check_ids(layout.seen("pairs"), seen_ids, ids)
    seen_by_id = dict(zip(seen_ids, seen[:, 0], strict=True))
    progress = Progress(sum(map(len, batches)), f"sample {checkpoint}, seed {seed}, shard {shard} of {shards}", "pair")
    records: list[dict[str, Any]] = []
    images: list[np.ndarray] = []
    for batch in batches:
        with naming(f"sample {checkpoint}, seed {seed}, images of pairs {batch}"):
            texts = sample_captions(model, batch, seen_by_id, settings=config.sampling, stream=(seed, checkpoint))
        records += [
            {"id": id_, "candidate": k, **asdict(text)}
            for id_, row in zip(batch, texts, strict=True)
            for k, text in enumerate(row)
        ]
        generated = sample_candidates(model, batch, caption_of, settings=config.sampling, stream=(seed, checkpoint))
        images.append(generated.numpy())
        progress.advance(len(batch))
    out = shard_folder(folder / "candidates", shard=shard, shards=shards)
    table = pd.DataFrame(records, columns=[*CAPTION_TYPES, *SAMPLED]).astype(CAPTION_TYPES)
    write_table(out / "captions.parquet", table if table["tokens"].notna().any() else table[list(CAPTION_TYPES)])
    empty = model.generated.empty(0, config.sampling.images.n)
    batch_ids = [id_ for batch in batches for id_ in batch]
    cut = set(compress(batch_ids, model.is_cut([caption_of[id_] for id_ in batch_ids])))
    write_images(out / "images.npy", batch_ids, np.concatenate([empty, *images]), model.generated, cut=cut)


@dataclass(frozen=True)
class Sampled:
    """A caption candidate."""

    caption: str
    tokens: list[int] | None
    """What was sampled, where the text alone does not give it: it was cut, or is tokenised otherwise."""
    cut: bool
    """Whether it ended at the limit of tokens instead of its end token."""


def sample_captions(
    model: UnifiedModel,
    ids: Sequence[str],
    seen_by_id: Mapping[str, np.ndarray],
    *,
    settings: Sampling,
    stream: tuple[int, str],
) -> list[list[Sampled]]:
    """Understanding candidates of one batch: one caption per decoding and image.

    Args:
        model: the checkpoint.
        ids: B pair ids.
        seen_by_id: images (*seen) by pair id.
        settings: decodings and lengths.
        stream: run seed and checkpoint; candidate k of pair i draws from the stream (seed, checkpoint, caption, i, k).

    Returns:
        B lists of one caption per decoding.

    Source: HermesFlow section 3.2.
    """
    decodings = settings.captions.decodings
    n = len(decodings)
    sampled = sample_tokens(
        model,
        as_tensor(np.stack([seen_by_id[id_] for id_ in ids])).to(model.device),
        torch.arange(len(ids)).repeat_interleave(n),
        [model.caption_prompt] * (len(ids) * n),
        decodings=list(decodings) * len(ids),
        max_new_tokens=settings.captions.max_new_tokens,
        generators=[generator(*stream, "caption", id_, k) for id_ in ids for k in range(n)],
    )
    room = model.room(model.caption_prompt)
    sampled = [row[:room] for row in sampled]  # no longer than training can score
    texts = [model.detokenize(row) for row in sampled]
    captions = [
        Sampled(text, None if row == tokens else row, cut=row[-1] != model.end_token)
        for text, row, tokens in zip(texts, sampled, model.completion_tokens(texts), strict=True)
    ]
    return [captions[i * n : (i + 1) * n] for i in range(len(ids))]


def sample_candidates(
    model: UnifiedModel,
    ids: Sequence[str],
    caption_of: Mapping[str, str],
    *,
    settings: Sampling,
    stream: tuple[int, str],
) -> Tensor:
    """Generation candidates of one batch; arguments as `sample_captions`, with captions by pair id.

    Returns:
        (B, n, *generated) on the CPU.

    Source: HermesFlow section 3.2.
    """
    n = settings.images.n
    with model.naming():
        images = model.generate_images(
            [caption_of[id_] for id_ in ids for _ in range(n)],
            settings=settings.images,
            generators=[generator(*stream, "image", id_, k) for id_ in ids for k in range(n)],
        )
    return images.unflatten(0, (len(ids), n))
