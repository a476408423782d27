"""Pairs of real images: drawn from a source by seed, given questions, split, and written with what was set aside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.config.data import QuestionModels, RealData
from hermesflow.core import registry
from hermesflow.core.files import Layout, digest_of, write_table
from hermesflow.data.images import WHITE, fit_image
from hermesflow.data.pairs import write_pairs
from hermesflow.data.questions.asking import Asker
from hermesflow.data.sources.drawing import (
    Candidate,
    DrawResult,
    Order,
    Source,
    by_selection,
    draw,
    first_by_seed,
    first_of_captions,
    readable,
)
from hermesflow.data.sources.selection import check_enough, check_selection, read_selection, write_selection
from hermesflow.data.sources.store import Store, open_store

PACKAGE = "hermesflow.data.sources"
"""Holds a module for each value of `data.source` that means real images, with a function `open_source`."""
SPLITS = ("pairs", "gap", "understanding", "prompts", "base")
"""The order in which splits are drawn: the pairs of self-play do not depend on the sizes of the others."""


def write_real_pairs(settings: RealData, counts: Mapping[str, int], layout: Layout, *, device: str) -> None:
    """Write every split, `rejected.csv`, `questions.csv` and `selection.json`.

    What is finished is kept in `data/work` until everything is, so that a killed run goes on; questions stay there.

    Args:
        settings: section `data`.
        counts: pairs per split.
        layout: where files go.
        device: where the models of questions run.

    Raises:
        DataError: no access, too few good records, or other records than those of `data.selection`.
        ConfigError: a model of questions cannot be read.
    """
    folder = layout.root / "data"
    work = folder / "work"
    sizes = {split: counts[split] for split in SPLITS}
    selection = None if settings.selection is None else read_selection(Path(settings.selection), sizes)
    source: Source = registry.load(PACKAGE, settings.source, "open_source")(settings, downloads=work / "downloads")

    @cache
    def first() -> dict[int, int]:
        return first_of_captions(readable(source.records()), seed=settings.seed)

    def order_of(count: int) -> Order:
        if selection is not None:
            return by_selection(readable(source.records()), selection.ids)
        return first_by_seed(readable(source.records()), count, seed=settings.seed, first=first())

    ground = settings.background or WHITE
    fit = partial(fit_image, image_size=settings.image_size, ground=ground)
    made_from = digest_of([source.origin, settings.path, settings.image_size, ground])
    local = "commit" not in source.origin  # files on the hub do not change under one commit
    with (
        open_store(work / "images.sqlite", made_from=made_from, retry=local) as images,
        open_store(work / "questions.sqlite", made_from="", retry=False) as texts,
    ):
        asker = Asker(source, settings.questions, texts, lambda models: _models(models, device))
        result = draw(source, images, asker, sizes, order_of=order_of, fit=fit)
        if selection is not None:
            check_selection(selection, result, images)
        check_enough(result, sizes, settings.path)
        splits = _split(result.chosen, sizes)
        for split, chosen in splits.items():
            write_pairs(layout.data(split), _rows(chosen, images, asker, kind=settings.source))
        _write_records(folder, result, asker)
        path = folder / "selection.json"
        write_selection(path, splits, result, images, origin=source.origin, seed=settings.seed)
    (work / "images.sqlite").unlink()
    shutil.rmtree(work / "downloads", ignore_errors=True)


def _models(settings: QuestionModels, device: str) -> tuple[Any, Any]:
    from hermesflow.data.questions.text_models import Checker, Generator

    return Generator(settings, device=device), Checker(settings, device=device)


def _split(chosen: Sequence[Candidate], sizes: Mapping[str, int]) -> dict[str, list[Candidate]]:
    splits, start = {}, 0
    for split, size in sizes.items():
        splits[split] = list(chosen[start : start + size])
        start += size
    return splits


def _rows(chosen: Sequence[Candidate], images: Store, asker: Asker, *, kind: str) -> Iterator[dict[str, Any]]:
    for candidate in chosen:
        yield {
            "id": candidate.id,
            "image": {"bytes": images.image(candidate.image).png, "path": None},
            "caption": candidate.caption,
            "kind": kind,
            "questions": asker.rows(candidate),
        }


def _write_records(folder: Path, result: DrawResult, asker: Asker) -> None:
    rows = [(r.file, r.id, r.record, r.reason) for r in result.rejected]
    rejected = pd.DataFrame(rows, columns=["file", "id", "record", "reason"])
    for column in ("file", "id", "reason"):  # what is not UTF-8 shows its bytes
        rejected[column] = [str(text).encode(errors="backslashreplace").decode() for text in rejected[column]]
    write_table(folder / "rejected.csv", rejected)
    write_table(folder / "questions.csv", asker.counts(result.chosen))
