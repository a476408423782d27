"""Artifacts on disk: where they are, atomic writes, manifests, tables, weights.

Every artifact is written under a temporary name in its own folder and renamed, so that nothing half-written ever
looks whole. Readers check what they read and say file, record and mend.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hermesflow.core.errors import ArtifactError
from hermesflow.core.processor import matrix_kernel, processor

if TYPE_CHECKING:  # torch takes seconds to import, and short steps do without it
    from torch import Tensor


LARGE = 4 * 2**20
"""Bytes from which a manifest holds the digest of a file beside it, which then need not be read to be known."""
_PLACES, _PLACE = 16, 2**14
REDO = "Delete it and run snakemake again to make it anew (or `dvc checkout` to restore it)."


@dataclass(frozen=True)
class Layout:
    """Where everything of one config lies; the only place that knows file names."""

    root: Path
    """`results/{name}`."""

    def data(self, split: str) -> Path:
        """Pairs of a split: base, pairs, gap, understanding or prompts."""
        return self.root / "data" / f"{split}.parquet"

    def seen(self, split: str) -> Path:
        """What understanding reads of the real images of a split, (N, 1, *seen)."""
        return self.root / "images" / "seen" / f"{split}.npy"

    @property
    def generated(self) -> Path:
        """What generation is pre-trained on, the images of split `base`, (N, 1, *generated)."""
        return self.root / "images" / "generated" / "base.npy"

    @property
    def tokenizer(self) -> Path:
        """Folder of the image tokenizer."""
        return self.root / "tokenizer"

    @property
    def weights(self) -> Path:
        """Folder of converted released weights, shared by all configs."""
        return self.root.parent / ".weights"

    @property
    def clip(self) -> Path:
        """Folder of the fixed image-text extractor."""
        return self.root / "clip"

    @property
    def judge(self) -> Path:
        """Accuracy of the independent judge."""
        return self.root / "judge" / "judge.json"

    @property
    def report(self) -> Path:
        """Folder of tables and figures."""
        return self.root / "report"

    def checkpoint(self, seed: int, checkpoint: str) -> Path:
        """Folder of one checkpoint of one seed: candidates, scores, preferences, model, evaluation."""
        return self.root / f"seed{seed}" / checkpoint

    def reference(self, seed: int, checkpoint: str, variant: str) -> Path:
        """Log-probs under one checkpoint, in a file named by what they are made from: `config.tree.Reference`."""
        return self.checkpoint(seed, checkpoint) / "reference" / f"{variant}.parquet"

    def benchmark(self, seed: int, checkpoint: str, benchmark: str) -> Path:
        """Folder of one real benchmark of one checkpoint of one seed."""
        return self.checkpoint(seed, checkpoint) / "benchmarks" / benchmark


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; rename it to `path` if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # keep the suffix: some writers choose their format by it
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, one trailing newline.

    Raises:
        ArtifactError: a number in it is not finite; JSON has none such.
    """
    try:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except ValueError as error:
        raise ArtifactError(
            f"{path}: {_not_finite(value)} is nan or infinite ({error}), so it was not written."
        ) from error
    with atomic(path) as temporary:
        temporary.write_text(text)


def _not_finite(value: Any, name: str = "value") -> str:
    """The names of the numbers in plain data that are not finite."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return ", ".join(filter(None, (_not_finite(part, f"{name}/{key}") for key, part in items)))
    return f"`{name}`" if isinstance(value, float) and not np.isfinite(value) else ""


def read_json(path: Path) -> Any:
    """Read a JSON artifact.

    Raises:
        ArtifactError: missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a readable JSON artifact ({error}). {REDO}") from error


def write_table(path: Path, table: pd.DataFrame, *, numbers: Sequence[str] = ()) -> None:
    """Write records atomically as parquet (`.parquet`) or CSV (`.csv`), without an index.

    Raises:
        ArtifactError: a column of `numbers` holds a value that is not finite.
    """
    _check_numbers(path, table, numbers)
    with atomic(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False, lineterminator="\n")
        else:
            table.to_parquet(temporary, index=False)


def read_table(path: Path, columns: Sequence[str], *, numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Read records and check that the named columns are there.

    Raises:
        ArtifactError: missing, truncated, a column is lacking, or one of `numbers` holds a value that is not finite.
    """
    try:
        table = pd.read_csv(path) if Path(path).suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ArtifactError(f"{path}: not a readable table ({error}). {REDO}") from error
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise ArtifactError(f"{path}: columns {missing} are missing (found {list(table.columns)}). {REDO}")
    _check_numbers(path, table, numbers)
    return table


def _check_numbers(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        wrong = ~np.isfinite(table[column].to_numpy(np.float64, na_value=np.nan))
        if wrong.any():
            record = table[wrong].iloc[0].to_dict()
            raise ArtifactError(
                f"{path}: `{column}` is nan, infinite or missing in {wrong.sum():,} of {len(table):,} records, first "
                f"in {record}. {REDO}"
            )


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors atomically as safetensors.

    Raises:
        ArtifactError: a tensor holds a value that is not finite.
    """
    from safetensors.torch import save_file

    from hermesflow.core.finite import check_weights

    check_weights(tensors.items(), f"{path} was not written", "Run the same command again.")
    with atomic(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors on the CPU.

    Raises:
        ArtifactError: missing, truncated, or a pickle (refused: it could run code).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        return load_file(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). {REDO}") from error
    except SafetensorError as error:
        with path.open("rb") as file:
            head = file.read(2)
        if head in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise ArtifactError(
                f"{path}: is a pickle (PyTorch .bin/.pt), which can run code when read, so it is refused. "
                "Convert it once to safetensors in a place you trust and pass that file."
            ) from error
        raise ArtifactError(f"{path}: truncated or not safetensors ({error}). {REDO}") from error


def sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """Hex sha256 of an artifact, of a large one as it was written down with it, without reading it.

    That of images is in the JSON file beside them, that of other files in the folder's manifest, where it holds if a
    `glance` finds the same file: one that was exchanged by hand is read.
    """
    if path.stat().st_size >= LARGE:
        images = path.suffix == ".npy"
        beside = path.with_suffix(".json") if images else path.parent / "manifest.json"
        known = read_json(beside) if beside.is_file() else {}
        known = known if images else known.get("large_files", {}).get(path.name, {})
        if "sha256" in known and (images or known["glance"] == glance(path)):
            return str(known["sha256"])
    return sha256(path)


def glance(path: Path) -> str:
    """Digest of a large file's size and of some places in it. Other weights differ; one changed byte may be missed."""
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for place in range(_PLACES):
            file.seek(place * (size - _PLACE) // (_PLACES - 1))
            total.update(file.read(_PLACE))
    return total.hexdigest()[:16]


def digest_of(value: Any) -> str:
    """Short hex digest of plain JSON data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def new_manifest(
    *, config: Any, inputs: Sequence[Path], seed: int | None = None, counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """What a folder is made from: git revision, config values, seed, kernel of products, versions, hashes of inputs.

    Args:
        config: values of the keys that were read.
        inputs: files that were read.
        seed: run seed.
        counts: how often something did not go through as it came; what never happened is left out.
    """
    happened = {what: count for what, count in (counts or {}).items() if count}
    return {
        "git_revision": git_revision(),
        "config": config,
        "config_digest": digest_of(config),
        "seed": seed,
        "matrix_kernel": f"{matrix_kernel()} on {processor()}",
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "numpy")},
        "inputs": {str(p): sha256(p) for p in inputs},
        **({"counts": happened} if happened else {}),
    }


def write_manifest(
    folder: Path,
    *,
    config: Any,
    inputs: Sequence[Path],
    seed: int | None = None,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Write `manifest.json` when all else in the folder is written; arguments as `new_manifest`."""
    save_manifest(folder, new_manifest(config=config, inputs=inputs, seed=seed, counts=counts))


def save_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json` with the digests of the large files in its folder, images aside (`content_digest`)."""
    files = (path for path in folder.glob("[!.]*") if path.is_file() and path.suffix != ".npy")
    large = {path.name: path for path in files if path.stat().st_size >= LARGE}
    digests = {name: {"sha256": sha256(path), "glance": glance(path)} for name, path in large.items()}
    write_json(folder / "manifest.json", {**manifest, **({"large_files": digests} if digests else {})})


@cache
def git_revision() -> str:
    """Revision of the code, `unknown` outside a git checkout."""
    try:
        process = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return process.stdout.strip()
