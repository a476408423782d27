"""A user's own pairs: a folder of images and captions, webdataset tars, parquet, a saved dataset, or one on the hub.

docs/data.md shows each of them.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hermesflow.config.data import Folder
from hermesflow.core import hub
from hermesflow.core.errors import DataError
from hermesflow.data.questions.rows import rows_of
from hermesflow.data.sources.drawing import Candidate, Rejected, Source
from hermesflow.data.sources.streams import reading, tar_files

KIND = "folder"
"""Kind of a question that does not say its own."""
IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
CAPTION_NAMES = ("caption", "text", "txt")
IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp")


def open_source(settings: Folder, *, downloads: Path) -> Source:
    """The reader for what is at `data.path`.

    Raises:
        DataError: nothing is there, or nothing that can be read.
    """
    folder = Path(settings.path)
    if not folder.is_dir():
        return _from_hub(settings, downloads)
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        raise DataError(f"{folder}: holds several splits. Let data.path name one of its folders: {', '.join(splits)}.")
    if any((folder / name).is_file() for name in ("metadata.jsonl", "metadata.csv")):
        return ImageSource(folder)
    import datasets

    if (folder / "state.json").is_file():
        return TableSource(datasets.load_from_disk(str(folder)), settings.path, {})
    if tars := sorted(path for path in folder.rglob("*") if path.suffix in (".tar", ".tgz")):
        return TarSource(folder, tars)
    if parquet := sorted(map(str, folder.rglob("*.parquet"))):
        table = datasets.Dataset.from_parquet(parquet, cache_dir=str(downloads))  # type: ignore[arg-type]
        return TableSource(table, settings.path, {})
    return ImageSource(folder)


class _Own:
    """What all readers share."""

    def own_questions(self, candidate: Candidate) -> tuple[list[dict[str, Any]], Counter[str]]:
        """The record's `questions`, if it has any."""
        return rows_of(candidate.questions, KIND)


class ImageSource(_Own):
    """Image files with `metadata.jsonl` or `metadata.csv`, or each with a text file of the same name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.origin: dict[str, Any] = {"source": "folder"}

    def records(self) -> Iterator[Candidate | Rejected]:
        """One record per line of the metadata, or per image file in the order of their names."""
        for name, reader in (("metadata.jsonl", _json_lines), ("metadata.csv", _csv_rows)):
            if (path := self._folder / name).is_file():
                yield from (self._of(row, path, number) for number, row in reader(path))
                return
        files = [path for path in self._folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS]
        for number, path in enumerate(sorted(files), start=1):
            text = path.with_suffix(".txt")
            caption = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else ""
            name = path.relative_to(self._folder).as_posix()
            yield _candidate({"caption": caption}, str(self._folder), number, "", name)

    def images(self, shard: str, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The files that are there."""
        for member in sorted(members):
            path = (self._folder / member).resolve()
            if path.is_file() and path.is_relative_to(self._folder.resolve()):
                yield member, path.read_bytes()

    def _of(self, row: Any, path: Path, number: int) -> Candidate | Rejected:
        if not isinstance(row, Mapping) or not isinstance(row.get("file_name"), str) or not row["file_name"]:
            return Rejected("", path.name, number, "broken line, or no file_name")
        return _candidate(row, path.name, number, "", row["file_name"])


class TarSource(_Own):
    """Webdataset tars: files of one name with different endings are one record."""

    def __init__(self, folder: Path, tars: list[Path]) -> None:
        self._folder, self._tars = folder, tars
        self.origin: dict[str, Any] = {"source": "folder"}

    def records(self) -> Iterator[Candidate | Rejected]:
        """One record per sample, in the order of the tars."""
        for path in self._tars:
            shard = path.relative_to(self._folder).as_posix()
            for number, (key, fields) in enumerate(_samples(path), start=1):
                yield _sample(key, fields, shard, number)

    def images(self, shard: str, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Images of one tar, in one pass."""
        yield from tar_files(self._folder / shard, members)


class TableSource(_Own):
    """A `datasets` dataset with a column of images and one of captions.

    Raises:
        DataError: a column is lacking.
    """

    def __init__(self, table: Any, name: str, origin: Mapping[str, str]) -> None:
        import datasets

        self._name = name
        self.origin: dict[str, Any] = {"source": "folder", **origin}
        self._image = _column(table.column_names, IMAGE_NAMES, name, "images")
        self._caption = _column(table.column_names, CAPTION_NAMES, name, "captions")
        if isinstance(table.features[self._image], datasets.Image):
            table = table.cast_column(self._image, datasets.Image(decode=False))
        self._table = table

    def records(self) -> Iterator[Candidate | Rejected]:
        """One record per row."""
        texts = [c for c in ("id", "__key__", self._caption, "questions") if c in self._table.column_names]
        for number, row in enumerate(self._table.select_columns(texts), start=1):
            own = row.get("id") or row.get("__key__")
            named = {"caption": row[self._caption], "questions": row.get("questions")}
            yield _candidate(named, self._name, number, "", str(number - 1), id_=str(own or f"{number:08d}"))

    def images(self, shard: str, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Images of some rows."""
        for member in sorted(members, key=int):
            image = self._table[int(member)][self._image]
            if isinstance(image, Mapping):
                path = image.get("path")
                image = image.get("bytes") or (Path(path).read_bytes() if path and Path(path).is_file() else None)
            if image is not None:
                yield member, bytes(image)


def _candidate(
    row: Mapping[str, Any], file: str, record: int, shard: str, member: str, *, id_: str | None = None
) -> Candidate:
    caption = next((row[name] for name in CAPTION_NAMES if isinstance(row.get(name), str)), "")
    own = id_ if id_ is not None else PurePosixPath(member).with_suffix("").as_posix()
    return Candidate(own, caption.strip(), file, record, shard, member, row.get("questions"))


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and fields of each sample: the image's name, and the bytes of everything else by ending."""
    current, fields = "", {}  # type: tuple[str, dict[str, Any]]
    with reading(path), tarfile.open(path, mode="r|*") as tar:
        for info in tar:
            if not info.isfile():
                continue
            folder, _, name = info.name.rpartition("/")
            stem, _, ending = name.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if key != current:
                if fields:
                    yield current, fields
                current, fields = key, {}
            if f".{ending.lower()}" in IMAGE_ENDINGS:
                fields["image"] = PurePosixPath(info.name).as_posix()
            elif ending.lower() in ("txt", "caption", "json"):
                file = tar.extractfile(info)
                fields[ending.lower()] = file.read() if file else b""
    if fields:
        yield current, fields


def _sample(key: str, fields: Mapping[str, Any], shard: str, number: int) -> Candidate | Rejected:
    if "image" not in fields:
        return Rejected(key, shard, number, "no image in the sample")
    try:
        row = json.loads(fields["json"]) if "json" in fields else {}
    except ValueError:
        return Rejected(key, shard, number, "broken JSON")
    row = dict(row) if isinstance(row, Mapping) else {}
    for ending in ("txt", "caption"):
        if ending in fields:
            row["caption"] = fields[ending].decode("utf-8", errors="replace")
    return _candidate(row, shard, number, shard, fields["image"], id_=key)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        yield from enumerate(csv.DictReader(file), start=2)


def _column(columns: list[str], names: tuple[str, ...], where: str, what: str) -> str:
    found = [name for name in names if name in columns]
    if not found:
        raise DataError(
            f"{where}: no column of {what} among {columns}; it must be called one of {list(names)}. Rename it there "
            "(docs/data.md)."
        )
    return found[0]


def _from_hub(settings: Folder, downloads: Path) -> TableSource:
    import datasets

    found = hub.open_dataset(settings.path, settings.revision)
    where = {"split": settings.split, "revision": found.revision, "cache_dir": str(downloads)}
    hub.newest(found)  # says what is wrong with the way there
    with hub.explained(found, f"split {settings.split}"):
        try:
            table = datasets.load_dataset(found.name, **where)  # type: ignore[arg-type]
        except ValueError as error:  # an unknown split, or files that datasets does not know
            raise DataError(
                f"{settings.path}: {error} Correct data.split, or let data.path name a folder (docs/data.md)."
            ) from error
    return TableSource(table, settings.path, {"repository": found.name, "commit": str(found.revision)})
