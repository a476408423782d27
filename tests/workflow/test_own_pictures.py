"""docs/your-own-pictures.md as a new user walks through it: a folder of pictures, its config, the whole DAG."""

import io
import json
import random
import re

import pandas as pd
import pytest
import yaml
from PIL import Image, ImageDraw

from hermesflow.core.files import read_json
from hermesflow.data.pairs import read_pairs
from hermesflow.models.text_tokenizers import load_text_tokenizer

from .conftest import REPOSITORY, make_clone

NAME = "own-pictures"
PAGE = REPOSITORY / "docs" / "your-own-pictures.md"
COUNT = 420
COLOURS = {"red": "#d02020", "blue": "#2050d0", "green": "#20a040", "yellow": "#e0c020"}
SHAPES = ("ellipse", "rectangle")
SPLITS = ("base", "pairs", "gap", "understanding", "prompts")


def picture(number: int) -> tuple[bytes, dict]:
    """A picture of two things, of a third of them transparent or on its side; half of all captions come again."""
    draw = random.Random(number // 2 if number % 2 else number)
    left, right = draw.sample(list(COLOURS), 2)
    thing, other = (draw.choice(SHAPES) for _ in range(2))
    image = Image.new("RGBA", (70, 56), "#ffffff00" if number % 6 == 0 else "#f0f0f0")
    canvas = ImageDraw.Draw(image)
    shift = random.Random(-number).randint(0, 6)
    for shape, colour, place in ((thing, left, 4), (other, right, 38)):
        getattr(canvas, shape)((place + shift, 14, place + shift + 20, 40), fill=COLOURS[colour])
    exif, file = Image.Exif(), io.BytesIO()
    if number % 6 == 3:
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    image.save(file, "PNG", exif=exif)
    name = {"ellipse": "disc", "rectangle": "box"}
    caption = f"a {left} {name[thing]} beside a {right} {name[other]}"
    question = {"question": "What colour is the left one?", "choices": list(COLOURS), "answer": left}
    also = {"question": f"Is there a {right} {name[other]}?", "choices": ["yes", "no"], "answer": "yes"}
    return file.getvalue(), {"file_name": f"{number:03d}.png", "caption": caption, "questions": [question, also]}


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A clone after the page's last command."""
    clone = make_clone(tmp_path_factory.mktemp("own") / "clone")
    clone.name = NAME
    folder = clone.root / yaml.safe_load(clone.config.read_text())["data"]["path"]
    folder.mkdir(parents=True)
    lines = []
    for number in range(COUNT):
        content, line = picture(number)
        (folder / line["file_name"]).write_bytes(content)
        lines.append(line)
    lines += [
        {"file_name": "lost.png", "caption": "a lost picture", "questions": lines[0]["questions"]},
        {"caption": ""},
    ]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    clone.run_in_one_process()
    return clone


def test_the_whole_dag_runs_without_network_or_a_tokenizer_of_somebody_else(walked):
    assert (walked.results / "report" / "answer.md").is_file()
    assert "Nothing to be done" in walked.snakemake("--dry-run")
    sizes = {split: len(read_pairs(walked.results / "data" / f"{split}.parquet")) for split in SPLITS}
    assert sizes == {"base": 300, "pairs": 24, "gap": 12, "understanding": 12, "prompts": 15}


def test_equal_captions_are_in_one_split_and_every_record_is_told(walked):
    told = read_json(walked.results / "data" / "selection.json")
    rejected = pd.read_csv(walked.results / "data" / "rejected.csv")
    assert told["records"]["read"] == COUNT + 2 and told["records"]["drawn"] == 363
    assert told["records"]["set aside"] == len(rejected)
    assert told["records"]["not needed"] == COUNT + 2 - 363 - len(rejected)
    captions = [set(read_pairs(walked.results / "data" / f"{split}.parquet")["caption"]) for split in SPLITS]
    assert sum(map(len, captions)) == len(set.union(*captions)) < 300
    assert told["changes"]["turned upright"] > 40 and told["changes"]["transparent pixels put on #ffffff"] > 40


def test_the_report_says_what_became_of_pictures_texts_and_questions(walked):
    note = (walked.results / "report" / "tables" / "table_rejected.md").read_text()
    told = read_json(walked.results / "data" / "selection.json")
    rejected = pd.read_csv(walked.results / "data" / "rejected.csv", dtype=str, keep_default_na=False)
    assert all(f"| {id_} " in note for id_ in rejected["id"]) and rejected["id"].str.startswith("0").any()
    assert f"Of 422 records 363 were drawn and {told['records']['not needed']} not needed." in note
    for change, count in told["changes"].items():
        assert f"{count} {change}" in note
    assert "Questions: 726 kept; dropped: none." in note
    assert "Captions longer than the model takes, cut where it draws from them: none." in note


def test_the_tokenizer_is_made_of_the_base_pairs_and_lies_beside_every_model(walked):
    models = [walked.results / "seed0" / name / "model" / "tokenizer.json" for name in ("base", "pair-1", "pair-2")]
    assert len({path.read_bytes() for path in models}) == 1
    tokenizer = load_text_tokenizer(models[0], "<|endoftext|>")
    texts = [row["caption"] for row in read_pairs(walked.results / "data" / "base.parquet").remove_columns("image")]
    texts += ["What colour is the left one?", "describe the image", "Ein grüner Käfer, 3 €"]
    ids = tokenizer.encode(texts)
    assert [tokenizer.decode(one) for one in ids] == texts
    assert max(map(len, ids[:-1])) < 15


def test_the_page_names_the_config_and_files_that_are_there():
    text = PAGE.read_text()
    for name in re.findall(r"`((?:config|docs|data)/[\w./-]+\.(?:yaml|md))`", text):
        assert (REPOSITORY / name).is_file(), name
    shown = [json.loads(line) for line in re.findall(r"^\{.*\}$", text, re.MULTILINE)]
    assert shown and all({"file_name", "caption", "questions"} <= line.keys() for line in shown)
    assert f"--configfile config/{NAME}.yaml" in text
