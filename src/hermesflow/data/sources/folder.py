"""A user's own pairs: a folder of images and captions, webdataset tars, parquet, a saved dataset, or one on the hub.

docs/data.md shows each of them.
"""

from __future__ import annotations

import csv
import json
import string
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow.parquet as pq

from hermesflow.config.data import Folder
from hermesflow.core import hub
from hermesflow.core.errors import DataError, is_disk_full
from hermesflow.core.tables import csv_rows
from hermesflow.data.questions.rows import Unusable, rows_of
from hermesflow.data.sources.drawing import Candidate, Rejected, Source
from hermesflow.data.sources.streams import Member, content_of, files_in, reading, tar_files

KIND = "folder"
"""Kind of a question that does not say its own."""
IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
TAR_ENDINGS = (".tar", ".tgz", ".tar.gz")
CAPTION_NAMES = ("caption", "captions", "text", "txt")
IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp")
METADATA = ("metadata.jsonl", "metadata.csv")
_MARK = "\ufeff"  # of byte order: some programs write it twice
LIST_ENDINGS = frozenset({".jsonl", ".csv", ".tsv", ".json"})


def open_source(settings: Folder, *, downloads: Path) -> Source:
    """The reader for what is at `data.path`.

    Raises:
        DataError: nothing is there, or nothing that can be read.
    """
    folder = Path(settings.path)
    if folder.is_file():
        raise DataError(f"{folder}: is a file; name its folder in data.path (docs/data.md).")
    if not folder.is_dir():
        if folder.is_absolute():
            raise DataError(f"{folder}: is not there. Correct data.path.")
        return _from_hub(settings, downloads)
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(path.parent.name for path in sorted(folder.glob("*/state.json")))
        raise DataError(f"{folder}: holds several splits. Let data.path name one of its folders: {splits}.")
    if metadata := [name for name in METADATA if (folder / name).is_file()]:
        if len(metadata) > 1:
            raise DataError(f"{folder}: holds {' and '.join(metadata)}. Remove one of them.")
        return ImageSource(folder)
    import datasets

    if (folder / "state.json").is_file():
        with _readable(folder):
            return TableSource(datasets.load_from_disk(str(folder)), settings.path, {})
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if tars := [path for path in files if path.name.endswith(TAR_ENDINGS)]:
        return TarSource(folder, tars)
    if parquet := [str(path) for path in files if path.suffix == ".parquet"]:
        with _readable(folder):
            full = [path for path in parquet if pq.read_metadata(path).num_rows]  # datasets refuses empty ones
            if not full:
                raise DataError(f"{folder}: its parquet files hold no rows.")
            table = datasets.Dataset.from_parquet(full, cache_dir=str(downloads))  # type: ignore[arg-type]
            return TableSource(table, settings.path, {})
    images = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
    if not images:
        raise DataError(
            f"{folder}: holds no images ({', '.join(sorted(IMAGE_ENDINGS))}), tars or parquet files; "
            f"{len(files):,} other files are there. Put each caption beside its image (docs/data.md)."
        )
    lists = [str(path.relative_to(folder)) for path in files if path.suffix.lower() in LIST_ENDINGS]
    if lists and not any(path.suffix.lower() == ".txt" for path in files):
        raise DataError(
            f"{folder}: no image has a text file beside it, and there is no {' or '.join(METADATA)}. If {lists[0]} "
            "holds the captions, make it that file, or let data.path name the folder that holds it (docs/data.md)."
        )
    return ImageSource(folder)


class _RecordSource:
    """What all readers share."""

    def own_questions(self, candidate: Candidate) -> tuple[list[dict[str, Any]], Counter[str]]:
        """The record's `questions`, if it has any."""
        return rows_of(candidate.questions, KIND)


class ImageSource(_RecordSource):
    """Image files with `metadata.jsonl` or `metadata.csv`, or each with a text file of the same name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.origin: dict[str, Any] = {"source": "folder"}

    def records(self) -> Iterator[Candidate | Rejected]:
        """One record per line of the metadata, or per image file in the order of their names."""
        for name, reader in zip(METADATA, (_json_lines, _csv_rows), strict=True):
            if (path := self._folder / name).is_file():
                yield from (_of_line(row, path.name, number) for number, row in reader(path))
                return
        files = {path for path in self._folder.rglob("*") if path.is_file()}
        images = {path for path in files if path.suffix.lower() in IMAGE_ENDINGS}
        texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
        orphans = set(texts.values()) - {texts.get(path.with_suffix("")) for path in images}
        for number, path in enumerate(sorted(images | orphans), start=1):
            name, text = path.relative_to(self._folder).as_posix(), texts.get(path.with_suffix(""))
            if path in orphans:
                yield Rejected(name, str(self._folder), number, "a text without its image")
            elif text is None:
                yield Rejected(name, str(self._folder), number, f"no caption: {path.stem}.txt is not there")
            else:
                yield _candidate({"caption": _decoded(text.read_bytes())}, str(self._folder), number, "", name)

    def images(self, shard: str, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The files that are there."""
        yield from files_in(self._folder, members)


class TarSource(_RecordSource):
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


class TableSource(_RecordSource):
    """A `datasets` dataset with a column of images and one of captions.

    Raises:
        DataError: a column is lacking.
    """

    def __init__(self, table: Any, name: str, origin: Mapping[str, str]) -> None:
        import datasets

        self._name = name
        self.origin: dict[str, Any] = {"source": "folder", **origin}
        try:
            columns = _named((column, column) for column in table.column_names)
        except Unusable as error:
            raise DataError(f"{name}: {error}. Rename one of them (docs/data.md).") from error
        table = table.rename_columns({column: plain for plain, column in columns.items()})
        self._image = _column(table.column_names, IMAGE_NAMES, name, "images")
        _column(table.column_names, CAPTION_NAMES, name, "captions")
        if isinstance(table.features[self._image], datasets.Image):
            table = table.cast_column(self._image, datasets.Image(decode=False))
        elif not _holds_bytes(table.features[self._image]):
            raise DataError(
                f"{name}: column `{self._image}` holds {table.features[self._image]}, not images. Store the bytes of "
                "each image file there, or an image of the `datasets` library (docs/data.md)."
            )
        self._table = table

    def records(self) -> Iterator[Candidate | Rejected]:
        """One record per row."""
        texts = [c for c in ("id", "__key__", *CAPTION_NAMES, "questions") if c in self._table.column_names]
        with _readable(self._name):
            for number, row in enumerate(self._table.select_columns(texts), start=1):
                key = next((row[name] for name in ("id", "__key__") if row.get(name) not in (None, "")), None)
                id_ = f"{number:08d}" if key is None else str(key)
                yield _candidate(row, self._name, number, "", str(number - 1), id_=id_)

    def images(self, shard: str, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Images of some rows."""
        for member in sorted(members, key=int):
            image = self._table[int(member)][self._image]
            if isinstance(image, Mapping):
                image = image.get("bytes") or content_of(Path(image.get("path") or ""))
            if image is not None:
                yield member, bytes(image)


def _holds_bytes(feature: Any) -> bool:
    return "binary" in str(feature.get("bytes") if isinstance(feature, dict) else getattr(feature, "dtype", ""))


def _candidate(
    row: Mapping[str, Any], file: str, record: int, shard: str, member: str, *, id_: str | None = None
) -> Candidate | Rejected:
    key = id_ if id_ is not None else PurePosixPath(member).with_suffix("").as_posix()
    names = [name for name in CAPTION_NAMES if name in row]
    if not names:
        return Rejected(key, file, record, f"no caption: its keys are {', '.join(row) or 'none'}")
    value = next((row[name] for name in names if row[name] not in (None, "", [])), "")
    if isinstance(value, str) and value.lstrip().startswith(('["', "['")):  # in a table that is text alone
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return Rejected(key, file, record, "a list of captions that is not JSON")
    captions = value if isinstance(value, list) else [value]
    if not all(isinstance(caption, str) for caption in captions):
        return Rejected(key, file, record, "a caption that is no text")
    captions = [caption.strip() for caption in captions if caption.strip()]
    changes = ("first of several captions",) if len(captions) > 1 else ()
    return Candidate(key, (captions or [""])[0], file, record, shard, member, row.get("questions"), changes=changes)


def _of_line(row: Any, file: str, number: int) -> Candidate | Rejected:
    """One line of metadata; a text is why it cannot be read."""
    if not isinstance(row, Mapping):
        return Rejected("", file, number, str(row))
    name = row.get("file_name")
    if not isinstance(name, str) or not PurePosixPath(name).name:
        return Rejected("", file, number, f"no file_name: its keys are {', '.join(map(str, row))}")
    return _candidate(row, file, number, "", name)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and fields of each sample: the image's name, and the bytes of everything else by ending."""
    current, fields = None, {}  # type: tuple[str | None, dict[str, Any]]
    with reading(path), tarfile.open(path, mode="r|*", tarinfo=Member) as tar:
        for info in tar:
            place = PurePosixPath(info.name)
            stem, _, ending = place.name.partition(".")
            if not info.isfile() or not stem:  # a folder, or a hidden file
                continue
            key = place.with_name(stem).as_posix()
            if key != current:
                if current is not None:
                    yield current, fields
                current, fields = key, {}
            if f".{ending.lower()}" in IMAGE_ENDINGS:
                fields.setdefault("image", place.as_posix())
                fields["images"] = fields.get("images", 0) + 1
            elif ending.lower() in ("txt", "caption", "json"):
                file = tar.extractfile(info)
                fields[ending.lower()] = file.read() if file else b""
    if current is not None:
        yield current, fields


def _sample(key: str, fields: Mapping[str, Any], shard: str, number: int) -> Candidate | Rejected:
    if "image" not in fields:
        return Rejected(key, shard, number, "no image in the sample")
    if fields["images"] > 1:
        return Rejected(key, shard, number, f"{fields['images']} images in the sample")
    row = _json(_decoded(fields.get("json", b"{}")))
    if isinstance(row, str):
        return Rejected(key, shard, number, row)
    for ending in ("txt", "caption"):
        if ending in fields:
            row["caption"] = _decoded(fields[ending])
    return _candidate(row, shard, number, shard, fields["image"], id_=key)


def _decoded(content: bytes) -> str:
    """A text as editors and spreadsheets save it, in UTF-8, UTF-16 or UTF-32; other bytes become lone surrogates."""
    with suppress(UnicodeDecodeError):
        return content.decode(json.detect_encoding(content)).lstrip(_MARK)
    return content.decode(errors="surrogateescape")


def _json(text: str) -> dict[str, Any] | str:
    """A JSON object, or why it is none."""
    try:
        row = json.loads(text, object_pairs_hook=_named)
    except Unusable as error:
        return str(error)
    except (ValueError, RecursionError):
        return "broken JSON"
    return row if isinstance(row, dict) else "JSON that is not an object"


def _plain(name: str) -> str:
    """The name of a column or key without capitals, spaces around it, and byte order marks."""
    return name.strip(_MARK + string.whitespace).lower()


def _named(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Values by their `_plain` names.

    Raises:
        Unusable: two have one name.
    """
    values: dict[str, Any] = {}
    for key, value in pairs:
        if (name := _plain(key)) in values:
            raise Unusable(f"two keys are called {name}")
        values[name] = value
    return values


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with _opened(path) as file:
        yield from ((number, _json(line)) for number, line in enumerate(file, start=1))


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows below the line of names, see `csv_rows`.

    Raises:
        DataError: names are lacking or there twice, or a quote is not closed.
    """
    with _opened(path) as file:
        reader = csv_rows(file, _plain)
        columns = list(reader.fieldnames or ())
        if "file_name" not in columns or not set(columns) & set(CAPTION_NAMES):
            raise DataError(
                f"{path}: its columns are {columns}; one must be called file_name and one {CAPTION_NAMES[0]} (or "
                f"{', '.join(CAPTION_NAMES[1:])}). Rename them in the first line (docs/data.md)."
            )
        for row in reader:
            many = None in row  # what stands behind the last column
            yield reader.line_num, "more cells than columns: put the caption in quotes" if many else row


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """A file of lines, open as text.

    Raises:
        DataError: in place of the errors of a broken file.
    """
    with path.open("rb") as binary:
        encoding = json.detect_encoding(binary.read(4))
    try:
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            yield file
    except DataError:
        raise
    except (csv.Error, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}). Close every quote, double those inside a text, name each column once, "
            "and save it as UTF-8."
        ) from error


@contextmanager
def _readable(where: Path | str) -> Iterator[None]:
    """Say what cannot be read.

    Raises:
        DataError: in place of whatever `datasets` and pyarrow raise over broken files.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        first = " ".join(str(error.__cause__ or error).split())[:300]
        raise DataError(
            f"{where}: its files cannot be read ({type(error).__name__}: {first}). Copy or write them again; parquet "
            "files of one folder need the same columns (docs/data.md)."
        ) from error


def _column(columns: list[str], names: tuple[str, ...], where: str, what: str) -> str:
    matches = [name for name in names if name in columns]
    if not matches:
        raise DataError(
            f"{where}: no column of {what} among {columns}; it must be called one of {list(names)}. Rename it there "
            "(docs/data.md)."
        )
    return matches[0]


def _from_hub(settings: Folder, downloads: Path) -> TableSource:
    import datasets

    repository = hub.open_dataset(settings.path, settings.revision)
    where = {"split": settings.split, "revision": repository.revision, "cache_dir": str(downloads)}
    hub.newest(repository)  # says what is wrong with the way there
    with hub.explained(repository, f"split {settings.split}"):
        try:
            table = datasets.load_dataset(repository.name, **where)  # type: ignore[arg-type]
        except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            # an unknown split, a script, or files that datasets does not know
            raise DataError(
                f"{settings.path}: {error} Correct data.split, or let data.path name a folder (docs/data.md)."
            ) from error
    return TableSource(table, settings.path, {"repository": repository.name, "commit": str(repository.revision)})
