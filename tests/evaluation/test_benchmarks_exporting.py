"""From drawn tokens to the files that the originals grade, and the comparison in docs/geneval.md."""

import json
import shutil
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from hermesflow.cli import main
from hermesflow.config.experiment import as_plain
from hermesflow.config.load import load_config
from hermesflow.core.images import as_tensor, read_images
from hermesflow.evaluation.benchmarks.geneval import TABLE_COLUMNS, image_row, read_metadata
from hermesflow.evaluation.graders.geneval_detector import ColorClassifier, Detector
from hermesflow.evaluation.graders.pretrained import PretrainedClip
from hermesflow.models.backbone import load_codec
from hermesflow.stages import grade
from tests.support.benchmark_world import GENEVAL, draw_all, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Drawn and graded, and the config as a file."""
    folder = tmp_path_factory.mktemp("world")
    config, layout = make_world(folder)
    draw_all(config, layout, "geneval")
    grade.run(config, layout, seed=0, checkpoint="base", benchmark="geneval")
    path = folder / "own.yaml"
    plain = {**as_plain(config), "name": layout.root.name}  # where the command looks
    path.write_text(yaml.safe_dump(json.loads(json.dumps(plain))))
    return path, layout


@pytest.fixture(scope="module")
def images(world, tmp_path_factory):
    """GenEval's, exported."""
    folder = tmp_path_factory.mktemp("images")
    assert export(world, "geneval", folder) == 0
    return folder


def export(world, benchmark, folder):
    path, layout = world
    own = ["--seed", "0", "--checkpoint", "base", "--benchmark", benchmark, "--to", str(folder)]
    return main.main(["export-images", "--config", str(path), "--results", str(layout.root.parent), *own])


def pixels_of(layout, benchmark):
    _, images = read_images(layout.benchmark(0, "base", benchmark) / "images.npy")
    return load_codec(layout.tokenizer, device="cpu").to_pixels(as_tensor(images).flatten(0, 1))


def test_geneval_s_images_lie_as_its_original_wants_them(world, images):
    _, layout = world
    expected = pixels_of(layout, "geneval")
    assert sorted(path.name for path in images.iterdir()) == [f"{number:05d}" for number in range(len(GENEVAL))]
    for number, line in enumerate(GENEVAL):
        place = images / f"{number:05d}"
        assert json.loads((place / "metadata.jsonl").read_text()) == line  # the original reads the file as one object
        assert sorted(path.name for path in (place / "samples").iterdir()) == [f"{k:04d}.png" for k in range(4)]
        for k in range(4):
            with Image.open(place / "samples" / f"{k:04d}.png") as image:
                assert np.array_equal(np.asarray(image), expected[4 * number + k])


def test_exported_images_get_the_verdicts_of_the_stage(world, images):
    path, layout = world
    own = load_config(path).benchmarks.geneval
    detector, classifier = Detector(own.detector), ColorClassifier(PretrainedClip(own.clip))
    rows = pd.read_parquet(layout.benchmark(0, "base", "geneval") / "rows.parquet")
    for row in rows.itertuples():
        place = images / f"{row.prompt:05d}"
        (wanted,) = read_metadata(place / "metadata.jsonl")
        with Image.open(place / "samples" / f"{row.image:04d}.png") as opened:
            image = opened.convert("RGB")
        again = image_row(row.prompt, row.image, wanted, detector.detect(image), partial(classifier.colors, image))
        assert again == tuple(getattr(row, name) for name in TABLE_COLUMNS)


def test_a_folder_with_images_and_another_benchmark_are_refused(world, images, tmp_path, capsys):
    before = sorted(images.rglob("*"))
    assert export(world, "geneval", images) == 1
    assert f"{images}: is not empty" in capsys.readouterr().err and sorted(images.rglob("*")) == before
    assert export(world, "coco", tmp_path / "coco") == 1
    assert "--benchmark coco: images are exported for geneval" in capsys.readouterr().err


def write_theirs(path, verdicts):
    """What evaluate_images.py writes of three cats above 0.3 in every image: right for one prompt alone, "a cat"."""
    box = [0.0, 0.0, 9.0, 9.0, 0.5]
    rows = [
        {
            "filename": f"IMAGES/{number:05d}/samples/{k:04d}.png",
            "tag": line["tag"],
            "prompt": line["prompt"],
            "correct": bool(verdicts.get((number, k), number == 0)),
            "reason": "",
            "metadata": json.dumps(line),
            "details": json.dumps({"cat": [box] * 3}),
        }
        for number, line in enumerate(GENEVAL)
        for k in range(4)
    ]
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    return path


def compared(world, theirs, tmp_path, monkeypatch, capsys):
    """What the code in docs/geneval.md prints of the graded run and a results file."""
    text = (Path(__file__).parents[2] / "docs" / "geneval.md").read_text()
    code = textwrap.dedent(text.split("```python\n")[1].split("```")[0])
    rows = tmp_path / "results/showo/seed0/base/benchmarks/geneval/rows.parquet"
    rows.parent.mkdir(parents=True)
    shutil.copy(world[1].benchmark(0, "base", "geneval") / "rows.parquet", rows)
    write_theirs(tmp_path / "results.jsonl", theirs)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    return capsys.readouterr().out


def test_both_sides_agree_where_they_must(world, tmp_path, monkeypatch, capsys):
    shares = compared(world, {}, tmp_path, monkeypatch, capsys)
    assert [line.split() for line in shares.splitlines() if line.startswith("single")] == [
        ["single_object", "0.5", "0.5", "1.0"]
    ]
    assert "Empty DataFrame" in shares  # no image has another verdict


def test_images_that_differ_are_named_with_our_reason(world, tmp_path, monkeypatch, capsys):
    told = compared(world, {(1, 2): True}, tmp_path, monkeypatch, capsys)  # a bench that nobody detected
    assert told.splitlines()[-1].split()[1:] == ["1", "2", "single_object", "expected", "bench>=1,", "found", "0"]


def test_a_config_without_the_section_is_told(tmp_path, capsys):
    smoke = Path(__file__).parents[2] / "config" / "smoke.yaml"
    assert main.main(["fid-reference", "--config", str(smoke), "--images", str(tmp_path)]) == 1
    assert "smoke.yaml: has no section `benchmarks.coco`" in capsys.readouterr().err
