"""What results/ holds about one checkpoint of one seed, as MLflow has it: params, points, datasets, tables, samples."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hermesflow.config.experiment import BASE
from hermesflow.core.files import Layout, digest_of, read_json, read_table, sha256
from hermesflow.core.images import as_tensor, read_images
from hermesflow.tracking.store import Point

TABLE_ROWS, SAMPLES = 50, 8
MANIFEST = "manifest.json"
_LONGEST = 6000  # MLflow cuts params there
_FIRST = ("seed", "checkpoint.", "training.")  # in the order of params


@dataclass(frozen=True)
class Results:
    """The folder of one checkpoint of one seed; it need not be complete."""

    layout: Layout
    seed: int
    checkpoint: str
    manifest: Mapping[str, Any]
    """What the weights are made from; known before they are trained."""

    @staticmethod
    def read(layout: Layout, seed: int, checkpoint: str) -> Results:
        """Of a checkpoint that is trained.

        Raises:
            ArtifactError: its manifest is missing or broken.
        """
        return Results(layout, seed, checkpoint, read_json(layout.checkpoint(seed, checkpoint) / "model" / MANIFEST))

    @property
    def folder(self) -> Path:
        """Folder of the checkpoint."""
        return self.layout.checkpoint(self.seed, self.checkpoint)

    @property
    def history(self) -> Path:
        """Table of the training steps."""
        return self.folder / "model" / "history.csv"

    @cached_property
    def evaluated_with(self) -> dict[str, Any]:
        """Config values that the evaluation read; none before it."""
        return _config_of(self.folder / "evaluation")

    @cached_property
    def params(self) -> dict[str, str]:
        """The seed, and every config value that the weights were made with, by dotted keys.

        They are from the manifests of the checkpoint and of what it grew from. `checkpoint` is its entry in the tree,
        whose overrides are in `training` too.
        """
        entry = f"checkpoints.{self.checkpoint}"
        folders = [self.layout.root / "data", self.layout.tokenizer]
        if parent := self.manifest["config"].get(entry, {}).get("parent"):
            base, source = (self.layout.checkpoint(self.seed, name) for name in (BASE, parent))
            folders += [base / "model", source / "candidates", source / "scores", self.folder / "preferences"]
        params = {"seed": str(self.seed)}
        for config in (*map(_config_of, folders), self.manifest["config"]):
            params |= {key.replace(f"{entry}.", "checkpoint."): value for key, value in flat(config).items()}
        params = {key: params.get(key.replace("training.", "checkpoint."), value) for key, value in params.items()}
        return dict(sorted(params.items(), key=lambda item: not item[0].startswith(_FIRST)))

    @property
    def all_params(self) -> dict[str, str]:
        """`params`, and the config values that the evaluation and the benchmarks read, as far as they are done."""
        params = flat(self.evaluated_with)
        for folder in self._benchmarks:
            params |= flat(_config_of(folder), "benchmarks.")
        return self.params | params | self.params

    @property
    def _benchmarks(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("benchmarks/*/values.json"))

    def curves(self) -> list[Point]:
        """Points of history.csv."""
        time, rows = milliseconds(self.history), read_table(self.history, ["step"]).to_dict("records")
        points = [(str(key), float(value), time, int(row["step"])) for row in rows for key, value in row.items()]
        return [point for point in points if point[0] != "step" and not math.isnan(point[1])]

    def figures(self) -> list[Point]:
        """Points of the evaluation and of the real benchmarks, at step 0; none before the evaluation."""
        path = self.folder / "evaluation" / "metrics.json"
        if not path.exists():
            return []
        figures = read_json(path)
        if self._benchmarks:
            from hermesflow.evaluation.bootstrap import point_values
            from hermesflow.evaluation.evaluated import read_evaluated

            figures |= point_values(read_evaluated(path.parent, self._benchmarks))
        return [(key, value, milliseconds(path), 0) for key, value in figures.items()]

    def datasets(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What training and evaluation read, from their manifests: a context, and the fields of MLflow's Dataset."""
        path = self.folder / "evaluation" / MANIFEST
        evaluation = read_json(path) if path.exists() else {"inputs": {}}
        for context, manifest in (("training", self.manifest), ("evaluation", evaluation)):
            for name, digest in manifest["inputs"].items():
                if name.endswith((".parquet", ".npy")):
                    yield context, self._dataset(name.rpartition(f"/{self.layout.root.name}/")[2], digest)

    def _dataset(self, name: str, digest: str) -> dict[str, Any]:
        file = (self.layout.root / name).resolve()
        fields = {"name": name, "digest": digest[:36], "source_type": "local", "source": json.dumps({"uri": str(file)})}
        if file.suffix == ".parquet" and file.exists():
            from pyarrow.parquet import ParquetFile

            table = ParquetFile(file)
            columns = [{"name": f.name, "type": str(f.type), "required": not f.nullable} for f in table.schema_arrow]
            fields["schema"] = json.dumps({"mlflow_colspec": columns})
            fields["profile"] = json.dumps({"num_rows": table.metadata.num_rows})
        return fields

    def tables(self) -> dict[str, pd.DataFrame]:
        """First rows of the preferences and of the captions in the evaluation, as far as they are there."""
        paths = [self.folder / "preferences" / "preferences.parquet", self.folder / "evaluation" / "captions.parquet"]
        return {f"{path.stem}.json": read_table(path, []).head(TABLE_ROWS) for path in paths if path.exists()}

    def samples(self) -> tuple[pd.DataFrame, np.ndarray] | None:
        """Ids and prompts of some of the evaluation's images, and the images side by side, (H, N * W, 3) uint8."""
        path = self.folder / "evaluation" / "samples.npy"
        if not path.exists():
            return None
        from hermesflow.models.backbone import load_codec

        ids, images = read_images(path)
        rows = np.linspace(0, len(ids) - 1, min(SAMPLES, len(ids))).astype(int)
        pixels = load_codec(self.layout.tokenizer, device="cpu").to_pixels(as_tensor(images[rows, 0]))
        prompts = read_table(self.layout.data("prompts"), ["id", "caption"]).set_index("id")["caption"]
        table = prompts.reindex([ids[row] for row in rows]).rename("prompt").reset_index()
        return table, np.concatenate(list(pixels), axis=1)

    @property
    def credit(self) -> str | None:
        """Licence line of the pictures that samples show; none before the evaluation."""
        from hermesflow.data.worlds.world import world_named

        source, style = (self.evaluated_with.get(f"data.{key}", "") for key in ("source", "style"))
        return world_named(source, style).credit

    def state(self) -> str:
        """Digest of all that MLflow is told of; another one means that something is new."""
        names = ("*/*.json", "benchmarks/*/*.json", "benchmarks/*/units.parquet")  # not images.npy: gigabytes
        return state_of([self.history, *(path for name in names for path in self.folder.glob(name))], self.folder)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Values of nested sections by dotted keys, lists and numbers as JSON; None is left out."""
    values: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            values[f"{prefix}{key}"] = text[:_LONGEST]
    return values


def made_from(manifest: Mapping[str, Any]) -> str:
    """Digest of what weights are made from: config values, inputs and seed."""
    return digest_of([manifest["config"], manifest["inputs"], manifest["seed"]])


def fingerprint(folder: Path) -> str:
    """Digest that tells weights from others: what they are made from, and how training went."""
    return digest_of([made_from(read_json(folder / MANIFEST)), sha256(folder / "history.csv")])


def state_of(files: Sequence[Path], root: Path) -> str:
    """Digest of names and contents of files."""
    return digest_of({str(file.relative_to(root)): sha256(file) for file in files})


def milliseconds(path: Path) -> int:
    """When a file was written, in milliseconds since 1970."""
    return path.stat().st_mtime_ns // 1_000_000


def _config_of(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    config: dict[str, Any] = read_json(path)["config"] if path.exists() else {}
    return config
