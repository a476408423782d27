"""A user's own pairs in every form that is read."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import datasets
import pandas as pd
import pytest
from huggingface_hub import constants

from hermesflow.config.load import load_config
from hermesflow.core.errors import ConfigError, DataError, FetchError
from hermesflow.core.files import Layout
from hermesflow.data.pairs import read_pairs
from hermesflow.stages import data as stage
from tests.support.hub_server import HubServer
from tests.support.journeydb_world import SIZES, TOTAL, jpeg, write_config
from tests.support.pair_rows import read_rows

ENOUGH = TOTAL + 3
QUESTIONS = [{"question": "What is it?", "choices": ["a cat", "a dog"], "answer": "a cat"}]


def caption(number: int) -> str:
    return f"Cat number {number}"


def rows(*, bad: bool = False) -> list[dict]:
    """Name, caption, questions and image of each record."""
    made = [
        {"name": f"set/{n:03d}", "caption": caption(n), "questions": QUESTIONS, "image": jpeg(n)} for n in range(ENOUGH)
    ]
    if bad:
        made[2]["caption"] = ""
        made[5]["image"] = b"no image"
    return made


def write_images(folder: Path, records: list[dict]) -> None:
    for record in records:
        path = folder / f"{record['name']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record["image"])


def json_line(record: dict) -> str:
    own = {key: record[key] for key in ("caption", "questions")}
    return json.dumps({"file_name": f"{record['name']}.jpg", **own})


def with_metadata(folder: Path, records: list[dict]) -> None:
    write_images(folder, records)
    (folder / "metadata.jsonl").write_text("\n".join(map(json_line, records)))


def with_tars(folder: Path, records: list[dict]) -> None:
    folder.mkdir(parents=True)
    for part in range(2):
        with tarfile.open(folder / f"{part:05d}.tar", "w") as tar:
            for record in records[part::2]:
                own = json.dumps({key: record[key] for key in ("caption", "questions")}).encode()
                for ending, content in (("jpg", record["image"]), ("json", own)):
                    info = tarfile.TarInfo(f"{record['name']}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def table(records: list[dict]) -> datasets.Dataset:
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "caption": datasets.Value("string"),
            "image": datasets.Image(),
            "questions": datasets.List(
                {
                    "question": datasets.Value("string"),
                    "choices": datasets.List(datasets.Value("string")),
                    "answer": datasets.Value("string"),
                }
            ),
        }
    )
    plain = [{**r, "id": r["name"], "image": {"bytes": r["image"], "path": None}} for r in records]
    return datasets.Dataset.from_list([{key: row[key] for key in features} for row in plain], features=features)


def with_parquet(folder: Path, records: list[dict]) -> None:
    folder.mkdir(parents=True)
    table(records).to_parquet(str(folder / "part.parquet"))


def with_saved(folder: Path, records: list[dict]) -> None:
    table(records).save_to_disk(str(folder))


FORMS = {"metadata": with_metadata, "tars": with_tars, "parquet": with_parquet, "saved": with_saved}


def run(folder: Path | str, results: Path, **data: object) -> Layout:
    config = load_config(write_config(results / "config.yaml", source="folder", path=str(folder), **data))
    layout = Layout(results / config.name)
    stage.run(config, layout)
    return layout


def everything(layout: Layout) -> list[dict]:
    return [row for split in SIZES for row in read_rows(layout.data(split))]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pairs(form, tmp_path):
    with_metadata(tmp_path / "reference", rows())
    FORMS[form](tmp_path / "own", rows())
    reference, layout = run(tmp_path / "reference", tmp_path / "a"), run(tmp_path / "own", tmp_path / "b")
    assert everything(layout) == everything(reference)
    assert {split: len(read_pairs(layout.data(split))) for split in SIZES} == SIZES
    row = everything(layout)[0]
    assert row["questions"] == [{**QUESTIONS[0], "kind": "folder"}] and row["kind"] == "folder"


@pytest.mark.parametrize("form", FORMS)
def test_bad_records_are_set_aside_and_replaced(form, tmp_path):
    FORMS[form](tmp_path / "own", rows(bad=True))
    layout = run(tmp_path / "own", tmp_path, base_pairs=1)
    assert len(everything(layout)) == TOTAL + 1
    table = pd.read_csv(layout.root / "data" / "rejected.csv")
    assert set(table["id"]) <= {"set/002", "set/005"} and table["file"].notna().all() and (table["record"] > 0).all()
    with pytest.raises(DataError, match=r"only 16 of the 18 .*1 empty caption") as error:
        run(tmp_path / "own", tmp_path / "more", base_pairs=3)
    assert "1 corrupt image" in str(error.value)


def test_text_files_beside_images(tmp_path):
    own = rows()
    write_images(tmp_path / "own", own)
    for record in own:
        (tmp_path / "own" / f"{record['name']}.txt").write_text(record["caption"] + "\n")
    with pytest.raises(DataError, match=r"no questions.*data\.questions"):
        run(tmp_path / "own", tmp_path)


def test_metadata_csv(tmp_path):
    from hermesflow.data.sources.folder import ImageSource

    write_images(tmp_path, rows())
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file_name", "text"), *((f"{r['name']}.jpg", r["caption"]) for r in rows())])
    found = list(ImageSource(tmp_path).records())
    assert [(c.id, c.caption) for c in found] == [(r["name"], r["caption"]) for r in rows()]
    assert dict(ImageSource(tmp_path).images("", {found[3].member, "../config.yaml"})) == {found[3].member: jpeg(3)}


def test_broken_lines_and_samples_are_set_aside_with_their_place(tmp_path):
    with_metadata(tmp_path / "own", rows())
    path = tmp_path / "own" / "metadata.jsonl"
    path.write_text("{broken\n" + path.read_text() + '\n{"caption": "no file"}\n')
    table = pd.read_csv(run(tmp_path / "own", tmp_path).root / "data" / "rejected.csv")
    assert table["record"].tolist() == [1, ENOUGH + 2] and set(table["file"]) == {"metadata.jsonl"}


def test_a_truncated_tar_is_named(tmp_path):
    with_tars(tmp_path / "own", rows())
    path = tmp_path / "own" / "00001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"00001\.tar: truncated"):
        run(tmp_path / "own", tmp_path)


def test_a_folder_of_splits_and_a_table_without_captions_are_said(tmp_path):
    datasets.DatasetDict({"train": table(rows()), "test": table(rows())}).save_to_disk(str(tmp_path / "own"))
    with pytest.raises(DataError, match=r"several splits.*train, test"):
        run(tmp_path / "own", tmp_path)
    table(rows()).rename_column("caption", "words").save_to_disk(str(tmp_path / "words"))
    with pytest.raises(DataError, match=r"no column of captions among .*docs/data\.md"):
        run(tmp_path / "words", tmp_path)


def test_a_dataset_on_the_hub_is_read_by_the_datasets_library(tmp_path, monkeypatch):
    with_parquet(tmp_path / "own", rows())
    content = (tmp_path / "own" / "part.parquet").read_bytes()
    with HubServer() as hub:
        commit = hub.add("someone/cats", {"data/train-00000-of-00001.parquet": content}, kind="datasets")
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        layout = run("someone/cats", tmp_path, revision=commit)
        with pytest.raises(DataError, match=r"data\.split"):
            run("someone/cats", tmp_path / "other", split="nothing", revision=commit)
        with pytest.raises(FetchError, match=r"no such repository.*data\.path"):
            run("someone/dogs", tmp_path / "third", revision=commit)
    assert everything(layout) == everything(run(tmp_path / "own", tmp_path / "b"))
    selection = json.loads((layout.root / "data" / "selection.json").read_text())
    assert selection["origin"] == {"source": "folder", "repository": "someone/cats", "commit": commit}


def test_keys_of_another_source_are_refused(tmp_path):
    file = write_config(tmp_path / "config.yaml", source="folder", path="x", shards=["000"])
    with pytest.raises(ConfigError, match=r"unknown key `data\.shards`"):
        load_config(file)
    file = write_config(tmp_path / "config.yaml", source="microworld", selection="x")
    with pytest.raises(ConfigError, match=r"unknown key `data\.selection`"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"`data`: .*journeydb"):
        load_config(write_config(tmp_path / "config.yaml", source="laion"))


def test_the_source_parquet_names_what_takes_its_place(tmp_path):
    file = write_config(tmp_path / "config.yaml", source="parquet", path="x")
    with pytest.raises(ConfigError, match=r"`data\.source`: `parquet` is gone; `folder` reads parquet"):
        load_config(file)
