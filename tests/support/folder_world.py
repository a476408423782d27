"""A user's own pairs in every form that is read, and stage `data` on them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import datasets

from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.stages import data as stage
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
