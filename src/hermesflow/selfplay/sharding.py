"""Whole batches of pairs dealt to shards, so that no result depends on the number of shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hermesflow.config.experiment import Config
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.core.files import read_table
from hermesflow.core.images import read_cut, read_form, read_images, write_images

CAPTION_TYPES = {"id": "str", "candidate": "int64", "caption": "str"}
SAMPLED = ("tokens", "cut")
"""More columns of captions, where some are not what their text is tokenised to: token ids or None, and cut or not."""
SCORE_TYPES = {"id": "str", "candidate": "int64", "score": "float64"}
IMAGE_TYPES = {**SCORE_TYPES, "right": "float64", "questions": "int64"}


def pairs_per_batch(config: Config) -> int:
    """Pairs scored together; shards are whole batches."""
    return max(1, config.scoring.batch_images // config.sampling.images.n)


def shard_batches(ids: Sequence[str], *, batch: int, shard: int, shards: int) -> list[list[str]]:
    """The batches of ids that one shard works on: every `shards`-th batch.

    Args:
        ids: all ids in order.
        batch: ids per batch; the last may be smaller.
        shard: 0 to `shards` - 1, as in `0-of-2`.
        shards: number of shards; those beyond the number of batches get nothing.

    Raises:
        ConfigError: no such shard.
    """
    if not 0 <= shard < shards:
        raise ConfigError(f"--shard {shard} --shards {shards}: shards are counted from 0 to --shards - 1.")
    batches = [list(ids[i : i + batch]) for i in range(0, len(ids), batch)]
    return batches[shard::shards]


def shard_ids(ids: Sequence[str], *, batch: int, shard: int, shards: int) -> list[str]:
    """The ids of one shard in the order of its batches; see `shard_batches`."""
    return [id_ for part in shard_batches(ids, batch=batch, shard=shard, shards=shards) for id_ in part]


def shard_folder(folder: Path, *, shard: int, shards: int) -> Path:
    """Where one shard of `candidates` or `scores` lies."""
    return folder / "shards" / f"{shard}-of-{shards}"


def check_ids(path: Path, ids: Sequence[str], expected: Sequence[str]) -> None:
    """Check that a file holds each of its pairs exactly once, in any order.

    Raises:
        ArtifactError: naming the file, the first wrong id and the mend.
    """
    counts, wanted = Counter(ids), set(expected)
    missing = [i for i in expected if i not in counts]
    twice = [i for i, n in counts.items() if n > 1]
    foreign = [i for i in counts if i not in wanted]
    for wrong, what in ((missing, "is missing"), (twice, "is there more than once"), (foreign, "does not belong here")):
        if wrong:
            raise ArtifactError(
                f"{path}: pair `{wrong[0]}` {what} ({len(wrong)} such of {len(expected)} expected). "
                "Delete its folder and run snakemake again to make it anew."
            )


def check_candidates(path: Path, table: pd.DataFrame, expected: Sequence[str], *, n: int) -> None:
    """Check that a shard holds candidates 0 to n - 1 of each of its pairs exactly once, in any order.

    Args:
        path: the shard file, for the message.
        table: has columns id and candidate.
        expected: ids of the shard.
        n: candidates per pair.

    Raises:
        ArtifactError: naming the file, the first wrong record and the mend.
    """
    check_ids(path, list(dict.fromkeys(table["id"])), expected)
    for id_, candidates in table.groupby("id", sort=False)["candidate"]:
        if sorted(candidates) != list(range(n)):
            raise ArtifactError(
                f"{path}: pair `{id_}` has candidates {sorted(candidates)} instead of 0 to {n - 1}, each once. "
                "Delete its folder and run snakemake again to make it anew."
            )


def gathered_table(
    folder: Path, name: str, types: Mapping[str, str], ids: Sequence[str], *, n: int, batch: int, shards: int
) -> pd.DataFrame:
    """A table of all shards in the order of the ids, then of the candidates.

    Args:
        folder: of `candidates` or `scores`.
        name: file in the folder of each shard.
        types: columns to keep, in order, and their types.
        ids: all ids in order.
        n: candidates per pair.
        batch: ids per batch, as they were dealt.
        shards: number of shards.

    Raises:
        ArtifactError: a shard is missing or truncated, or lacks or repeats a pair or a candidate.
    """
    tables = []
    for shard in range(shards):
        path = shard_folder(folder, shard=shard, shards=shards) / name
        tables.append(read_table(path, list(types), numbers=[name for name in ("score", "right") if name in types]))
        check_candidates(path, tables[-1], shard_ids(ids, batch=batch, shard=shard, shards=shards), n=n)
    return sorted_candidates(tables, ids, types)


def sorted_candidates(tables: Sequence[pd.DataFrame], ids: Sequence[str], types: Mapping[str, str]) -> pd.DataFrame:
    """All rows of some tables, columns of `types` and `SAMPLED`, in the order of the ids, then of the candidates."""
    more = [column for column in SAMPLED if any(column in t for t in tables)]
    table = pd.concat([t.reindex(columns=[*types, *more]).astype(dict(types)) for t in tables])
    if more:
        table["cut"] = table["cut"].eq(True)  # not in shards without such captions
    place = {id_: i for i, id_ in enumerate(ids)}
    order = np.lexsort((table["candidate"], table["id"].map(place)))
    return table.iloc[order].reset_index(drop=True)


def gather_images(folder: Path, ids: Sequence[str], *, batch: int, shards: int) -> None:
    """Write `images.npy` of all shards in the order of the ids; arguments and errors as `gathered_table`."""
    by_id: dict[str, np.ndarray] = {}
    cut: set[str] = set()
    for shard in range(shards):
        path = shard_folder(folder, shard=shard, shards=shards) / "images.npy"
        image_ids, images = read_images(path)
        check_ids(path, image_ids, shard_ids(ids, batch=batch, shard=shard, shards=shards))
        by_id.update(zip(image_ids, images, strict=True))
        cut.update(read_cut(path))
    write_images(folder / "images.npy", ids, np.stack([by_id[id_] for id_ in ids]), read_form(path), cut=cut)
