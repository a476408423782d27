"""lmms-eval's files of one checkpoint, read; local copies of tasks go by the names of the shipped ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import read_json, read_table
from hermesflow.evaluation.lmms import IMAGES, LOCAL

_UNREAD = frozenset({"doc_hash", "input", "resps", "token_counts"})
"""Parts of a sample that nothing here is made of."""

Sample = Mapping[str, Any]
Row = tuple[str, str, str, float, float]
"""metric, pool, picture, numerator, denominator."""


@dataclass(frozen=True)
class Run:
    """What lmms-eval left of one checkpoint."""

    folder: Path
    figures: dict[str, dict[str, Any]]
    """Task -> figure -> value, as lmms-eval names them."""
    samples: dict[str, list[Sample]]
    """Task -> one sample per record."""
    images: dict[tuple[str, int], str]
    """(task, record) -> digest of the picture it shows."""

    def image(self, task: str, sample: Sample) -> str:
        """The picture a sample is about.

        Raises:
            ArtifactError: `images.parquet` does not say.
        """
        try:
            return self.images[task, sample["doc_id"]]
        except KeyError as error:
            raise ArtifactError(
                f"{self.folder / IMAGES}: says nothing of task {task}, record {error.args[0]}. {AGAIN}"
            ) from error


def read_run(folder: Path) -> Run:
    """Read what `running.evaluate` left.

    Raises:
        ArtifactError: a file is missing, truncated or of another form.
    """
    files = sorted(folder.glob("*/*_results.json"))
    if len(files) != 1:
        raise ArtifactError(f"{folder}: holds {len(files)} files `*_results.json` instead of one. {AGAIN}")
    results = read_json(files[0])
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise ArtifactError(f"{files[0]}: has no `results`, so it is not of lmms-eval 0.7. {AGAIN}")
    stem = files[0].name.removesuffix("_results.json")
    samples = {task: _read_samples(files[0].with_name(f"{stem}_samples_{task}.jsonl")) for task in results["results"]}
    images = read_table(folder / IMAGES, ("task", "doc_id", "image"))
    return Run(
        folder,
        {shipped(task): figures for task, figures in results["results"].items()},
        {shipped(task): rows for task, rows in samples.items()},
        {(shipped(task), int(key)): image for task, key, image in images.itertuples(index=False)},
    )


def shipped(task: str) -> str:
    """Name of the shipped task that a local copy stands for."""
    return task.removesuffix(LOCAL)


def _read_samples(path: Path) -> list[Sample]:
    """What is wanted of each sample, line by line: a whole file of VQAv2 fills gigabytes."""
    rows: list[Sample] = []
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:  # an answer may hold other ends of lines
            for line in lines:
                sample = json.loads(line)
                rows.append({key: value for key, value in sample.items() if key not in _UNREAD})
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). {AGAIN}") from error
    except (json.JSONDecodeError, AttributeError) as error:
        raise ArtifactError(f"{path}, line {len(rows) + 1}: not a sample in JSON ({error}). {AGAIN}") from error
    return rows


AGAIN = "Delete the folder and evaluate the checkpoint again."
