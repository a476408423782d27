"""Whatever stands in a stranger's files: a clear error or right rows, and as many records as went in."""

from __future__ import annotations

import csv
import io
import json
import logging
import tarfile
from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hermesflow.config.data import Folder, JourneyDb
from hermesflow.core.errors import DataError
from hermesflow.data.sources.drawing import Candidate, Rejected, readable
from hermesflow.data.sources.folder import open_source
from hermesflow.data.sources.journeydb import JourneyDbSource
from tests.support.journeydb_world import ANNOTATIONS, record

SIZES = {"seed": 7, "image_size": 24, "base_pairs": 0, "pairs": 1, "gap_pairs": 1}
MANY = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = st.text(max_size=12) | st.sampled_from(
    ["", " ", "A cat.", "[", '["A cat.", "A dog."]', '"', "Größe", "a,b;c\td"]
)
NAMES = st.text(min_size=1, max_size=6) | st.sampled_from(["1.jpg", "a/b.png", ".", "..", "/", "../x.jpg", "a" * 300])
SURROGATES = st.characters(categories=["Cs"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | SURROGATES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["question", "choices"]), inner),
    max_leaves=6,
)
KEYS = ("file_name", "caption", "captions", "text", "questions", "other")
ROWS = st.dictionaries(st.sampled_from(KEYS), VALUES | NAMES | WORDS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "disabled", True)
    datasets.disable_progress_bars()
    yield tmp_path
    datasets.enable_progress_bars()


def source_of(folder: Path):
    settings = Folder(source="folder", path=str(folder / "own"), **SIZES)
    return open_source(settings, downloads=folder / "downloads")


def emptied(folder: Path) -> Path:
    own = folder / "own"
    own.mkdir(exist_ok=True)
    for path in own.iterdir():
        path.unlink()
    return own


def check(source, count: int) -> list[Candidate | Rejected]:
    """As many records as went in, fit to be drawn or set aside; their images and questions can be asked for."""
    records = list(readable(source.records()))
    assert len(records) == count
    for one in records:
        if isinstance(one, Rejected):
            assert one.reason
            continue
        f"{one.id}{one.caption}{one.image}".encode()
        assert one.caption == one.caption.strip()
        rows, dropped = source.own_questions(one)
        assert all(row["answer"] in row["choices"] for row in rows)
        if isinstance(one.questions, list):
            assert len(rows) + dropped.total() == len(one.questions)
        elif one.questions not in (None, "") and not str(one.questions).isspace():
            assert rows or dropped or json.loads(one.questions) in ([], None)
    for shard in {one.shard for one in records if isinstance(one, Candidate)}:
        members = {one.member for one in records if isinstance(one, Candidate) and one.shard == shard}
        assert {name for name, _ in source.images(shard, members)} <= members
    return records


def texts_of(value: str | list[str]) -> list[str]:
    """What a caption may be that stands so in a file: a text, one of a list, or of a list as JSON."""
    with suppress(ValueError, RecursionError):
        value = json.loads(value) if isinstance(value, str) and value.lstrip().startswith('["') else value
    return [text.strip() for text in ([value] if isinstance(value, str) else value)] or [""]


@MANY
@given(rows=st.lists(ROWS | VALUES, max_size=8), broken=st.binary(max_size=6))
def test_lines_of_json(folder, rows, broken):
    lines = [json.dumps(row).encode() for row in rows] + [b"{" + broken.replace(b"\n", b"").replace(b"\r", b"")]
    (emptied(folder) / "metadata.jsonl").write_bytes(b"\n".join(lines))
    records = check(source_of(folder), len(lines))
    for row, one in zip(rows, records, strict=False):
        if isinstance(one, Candidate):
            assert one.member == row["file_name"]
            values = [row[key] for key in ("caption", "captions", "text") if row.get(key) not in (None, "", [])]
            assert one.caption in texts_of(values[0] if values else "")
        elif one.reason == "broken JSON" or one.reason.startswith("no file_name"):
            assert not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or row["file_name"] in "./.."
    assert isinstance(records[-1], Rejected)


CELLS = st.lists(
    st.tuples(NAMES, st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)), max_size=8
)


@MANY
@given(cells=CELLS, delimiter=st.sampled_from(",;\t"), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_tables_of_text(folder, cells, delimiter, encoding):
    own = [(name.replace("\0", "").encode(errors="ignore").decode() or "x", caption) for name, caption in cells]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([("file_name", "caption"), *own])
    (emptied(folder) / "metadata.csv").write_bytes(text.getvalue().encode(encoding))
    for (name, caption), one in zip(own, check(source_of(folder), len(own)), strict=True):
        if isinstance(one, Candidate):
            assert one.member == name
            assert one.caption in texts_of(caption)
        else:
            assert (one.reason.startswith("no file_name") and not name.strip("/.")) or caption.lstrip()[0] == "["


@MANY
@given(content=st.binary(max_size=60))
@example(b"file_name,caption\n\xff\xfe,\xe4\n")
@example(b"\xff\xfea")
def test_any_bytes_as_a_table(folder, content):
    for head in (b"", b"file_name,caption\n"):
        (emptied(folder) / "metadata.csv").write_bytes(head + content)
        try:
            records = list(readable(source_of(folder).records()))
        except DataError as error:
            assert "metadata.csv: " in str(error)
        else:
            check(source_of(folder), len(records))
            assert all(one.reason for one in records if isinstance(one, Rejected))


@MANY
@given(
    texts=st.dictionaries(st.sampled_from("abcdef"), st.none() | st.binary(max_size=12) | WORDS, max_size=6),
    images=st.sets(st.sampled_from("abcdef")),
)
def test_texts_beside_images(folder, texts, images):
    own = emptied(folder)
    for name in images:
        (own / f"{name}.jpg").write_bytes(b"image")
    written = {name: text for name, text in texts.items() if text is not None}
    for name, text in written.items():
        (own / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    try:
        source = source_of(folder)
    except DataError as error:
        assert "holds no images" in str(error) and not images
        return
    records = check(source, len(images | set(written)))
    good = {one.id for one in records if isinstance(one, Candidate)}
    assert good <= images & set(written)


FILES = st.lists(
    st.tuples(
        st.sampled_from(["0", "1", "a/1", "./2", ".h", "3.b", ""]),
        st.sampled_from(["jpg", "PNG", "txt", "json", "cls", "caption", ""]),
        st.binary(max_size=8) | ROWS.map(lambda row: json.dumps(row).encode()),
    ),
    max_size=12,
)


@MANY
@given(files=FILES, cut=st.integers(0, 3000), junk=st.binary(max_size=20))
def test_samples_of_tars(folder, files, cut, junk):
    own = emptied(folder)
    with tarfile.open(own / "0.tar", "w") as tar:
        for name, ending, content in files:
            info = tarfile.TarInfo(f"{name}.{ending}" if ending else name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    keys = []
    for name, ending, _ in files:
        stem = Path(f"{name}.{ending}" if ending else name)
        if stem.name.partition(".")[0]:
            keys.append(stem.with_name(stem.name.partition(".")[0]).as_posix())
    check(source_of(folder), sum(key != before for before, key in zip([None, *keys], keys, strict=False)))
    whole = (own / "0.tar").read_bytes()
    for content in (whole[:cut], junk, whole[:cut] + junk + whole[cut + len(junk) :]):
        (own / "0.tar").write_bytes(content)
        try:
            list(source_of(folder).records())
        except DataError as error:
            assert "0.tar: truncated or not a tar" in str(error)


COLUMN = st.sampled_from(
    [
        (pa.string(), WORDS),
        (pa.list_(pa.string()), st.lists(WORDS, max_size=3)),
        (pa.int64(), st.integers(-5, 5)),
        (pa.binary(), st.binary(max_size=4)),
        (pa.list_(pa.int64()), st.lists(st.integers(0, 3), max_size=2)),
    ]
)


@MANY
@given(data=st.data(), count=st.integers(0, 4))
def test_rows_of_parquet(folder, data, count):
    columns = {"image": pa.array([b"image"] * count, pa.binary())}
    for name in data.draw(st.sets(st.sampled_from(["caption", "text", "id", "questions", "image"]), min_size=1)):
        kind, values = data.draw(COLUMN)
        columns[name] = pa.array(data.draw(st.lists(st.none() | values, min_size=count, max_size=count)), kind)
    own = emptied(folder)
    pq.write_table(pa.table(columns), own / "0.parquet")
    try:
        source = source_of(folder)
    except DataError as error:
        kinds = {name: str(column.type) for name, column in columns.items()}
        assert not count or not {"caption", "text"} & kinds.keys() or kinds["image"] != "binary", error
        return
    records = check(source, count)
    captions = [columns[name].to_pylist() for name in ("caption", "text") if name in columns]
    for values, one in zip(zip(*captions, strict=True), records, strict=True):
        value = next((value for value in values if value not in (None, "", [])), None)
        if isinstance(one, Candidate):
            assert one.caption in texts_of(value or "")
        else:
            assert one.reason == "a caption that is no text" and not isinstance(value, str)


ITEMS = st.lists(
    st.builds(
        lambda question, options, answer: {"Question": question, "Options": options, "Answer": answer},
        VALUES,
        VALUES | st.dictionaries(st.sampled_from("AB"), WORDS, max_size=2) | st.just({"A": "red", "B": "blue"}),
        VALUES | st.sampled_from(["A", "B. blue", "(A) red", "red"]),
    )
    | VALUES,
    max_size=4,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "img_path": VALUES | NAMES | st.sampled_from(["./000/..", "./001/a.jpg", "000/", "٣/a.jpg"]),
        "prompt": VALUES,
        "Task2": VALUES | st.fixed_dictionaries({"Caption": VALUES}),
        "Task3": VALUES | st.dictionaries(st.sampled_from(["", "Style Relevant", "Content"]), ITEMS | VALUES),
    },
)


@MANY
@given(changes=st.lists(CHANGES, max_size=5), others=st.lists(VALUES, max_size=3), broken=st.binary(max_size=9))
def test_annotations_of_journeydb(folder, changes, others, broken):
    rows = [record(n % 2, n, **change) for n, change in enumerate(changes)]
    lines = [json.dumps(row).encode() for row in (*rows, *others)] + [b"[" + broken.replace(b"\n", b"")]
    path = folder / ANNOTATIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(lines))
    for shard in ("000", "001"):
        (folder / "data/train/imgs" / shard).mkdir(parents=True, exist_ok=True)
    source = JourneyDbSource(JourneyDb(source="journeydb", path=str(folder), **SIZES), downloads=folder)
    records = list(readable(source.records()))
    assert len(records) == len(lines)
    for change, one in zip(changes, records, strict=False):
        if not change:
            assert isinstance(one, Candidate)
    for one in records:
        if isinstance(one, Candidate):
            kept, dropped = source.own_questions(one)
            assert len(kept) + dropped.total() == len(one.questions)
            json.dumps(kept, ensure_ascii=False).encode()
            if one.shard in ("000", "001"):
                assert not dict(source.images(one.shard, {one.member}))
