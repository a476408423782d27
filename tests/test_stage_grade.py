import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark_world import CAPTIONS, DPG, GENEVAL, draw_all, make_world
from chat_server import MODEL, TOKENS, ChatServer
from hermesflow.artifacts import read_codes, read_json, write_codes
from hermesflow.benchmarks import fidelity
from hermesflow.benchmarks.fidelity import Gaussian, moments, write_reference
from hermesflow.benchmarks.inception import load_inception
from hermesflow.benchmarks.pretrained import PretrainedClip
from hermesflow.data.pairs import read_pairs
from hermesflow.errors import ArtifactError, DataError
from hermesflow.evaluation import generation
from hermesflow.evaluation.statistics import UNIT_COLUMNS, Evaluated, point_values
from hermesflow.models.magvit import load_tokenizer
from hermesflow.stages import grade

SHIFT = 3.0


def first_choice(body):
    """A judge that takes the first choice, whatever it sees or reads."""
    lines = body["messages"][-1]["content"][0]["text"].split("\n")
    choice = next(line.removeprefix("- ") for line in lines if line.startswith("- "))
    return {"role": "assistant", "content": json.dumps({"choice": choice}), "refusal": None}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everything drawn and graded; the reference is the drawn images' own but for one mean."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with ChatServer() as server:
        server.message = first_choice
        config, layout = make_world(folder, server.settings(folder / "cache"))
        for benchmark in ("geneval", "dpg", "coco", "gap"):
            draw_all(config, layout, benchmark)
        seen = features_of(config, images_of(layout, "coco"))
        own = moments(seen)
        shifted = np.where(np.arange(len(own.mean)) == 0, own.mean + SHIFT, own.mean)
        write_reference(Path(config.benchmarks.coco.reference), Gaussian(shifted, own.covariance))
        for benchmark in ("geneval", "dpg", "coco", "gap"):
            grade.run(config, layout, seed=0, checkpoint="base", benchmark=benchmark)
        yield config, layout, server


def images_of(layout, benchmark):
    _, codes = read_codes(layout.benchmark(0, "base", benchmark) / "images.npy")
    tokenizer = load_tokenizer(layout.tokenizer, device=torch.device("cpu")).eval()
    return generation.decode(tokenizer, torch.from_numpy(codes.astype(np.int64)).flatten(0, 1))


def features_of(config, images):
    return fidelity.features(load_inception(config.benchmarks.coco.inception), list(images))


def found(layout, benchmark):
    units = pd.read_parquet(layout.benchmark(0, "base", benchmark) / "units.parquet")
    assert tuple(units.columns) == UNIT_COLUMNS
    return point_values(Evaluated(units, np.zeros((0, 1)), np.zeros((0, 1))))


def facts(layout, benchmark):
    return read_json(layout.benchmark(0, "base", benchmark) / "facts.json")


def test_geneval_by_hand(world):
    """Of two prompts of one object that with a cat is right, of the other kinds none: overall (1/2 + 5 x 0) / 6."""
    config, layout, _ = world
    values = found(layout, "geneval")
    assert values["geneval/single_object"] == 0.5
    assert values["geneval/overall"] == pytest.approx(1 / 12)
    rows = pd.read_parquet(layout.benchmark(0, "base", "geneval") / "rows.parquet")
    assert len(rows) == 4 * len(GENEVAL) and set(rows[rows["accepted"]]["caption"]) == {"a photo of a cat"}
    told = facts(layout, "geneval")
    assert told["items"] == 7 and told["images"] == 4
    assert told["scorers"] == {"detector": config.benchmarks.geneval.detector, "clip": config.benchmarks.geneval.clip}


def test_dpg_of_a_judge_that_says_yes(world):
    config, layout, _ = world
    assert found(layout, "dpg") == {"dpg": 1.0, "dpg/entity": 1.0, "dpg/attribute": 1.0}
    assert len(pd.read_parquet(layout.benchmark(0, "base", "dpg") / "rows.parquet")) == 2 * len(DPG)
    assert facts(layout, "dpg")["questions"] == 3
    assert facts(layout, "dpg")["scorers"] == {"judge": config.benchmarks.dpg.judge}


def test_the_frechet_distance_to_the_same_moments_with_one_mean_shifted(world):
    """|mean - mean|^2 = 3^2; the covariances are the same."""
    _, layout, _ = world
    values = read_json(layout.benchmark(0, "base", "coco") / "values.json")
    assert values == {"fid": pytest.approx(SHIFT**2, abs=1e-3)}


def test_the_clip_score_is_that_of_each_drawn_image_with_its_own_caption(world):
    config, layout, _ = world
    clip = PretrainedClip(config.benchmarks.coco.clip)
    expected = fidelity.clip_scores(clip, list(images_of(layout, "coco")), list(CAPTIONS.values()))
    rows = pd.read_parquet(layout.benchmark(0, "base", "coco") / "rows.parquet")
    assert list(rows["id"]) == [f"{key:012d}" for key in CAPTIONS]
    assert list(rows["clip_score"]) == pytest.approx(list(expected)) and len(set(expected)) == 3
    units = pd.read_parquet(layout.benchmark(0, "base", "coco") / "units.parquet")
    assert set(units["metric"]) == {"clip_score"} and units["numerator"].sum() / 3 == pytest.approx(expected.mean())
    assert "48 x 48" in facts(layout, "coco")["protocol"]
    (pin,) = config.benchmarks.coco.inception.files.values()
    assert facts(layout, "coco")["scorers"]["inception"].endswith(f"(sha256 {pin})")


def test_both_protocols_of_the_gap_with_a_judge_that_takes_the_first_choice(world):
    """Generation is the share of questions whose first choice is right."""
    _, layout, server = world
    questions = [q for row in read_pairs(layout.data("gap")) for q in row["questions"]]
    first = np.mean([q["choices"][0] == q["answer"] for q in questions])
    values = found(layout, "gap")
    assert values["gap/paper/generation"] == values["gap/same-judge/generation"] == pytest.approx(first)
    rows = pd.read_parquet(layout.benchmark(0, "base", "gap") / "rows.parquet")
    assert list(rows["question"]) == [q["question"] for q in questions]
    assert values["gap/paper/understanding"] == pytest.approx((rows["nearest"] == rows["answer"]).mean())
    told = facts(layout, "gap")
    assert told["questions"] == len(questions) and told["items"] == 3
    assert told["models"] == [MODEL] and told["scorers"]["judge"] == "gpt-4o"
    assert told["verdicts"]["drawn"]["chosen"] == len(questions)
    assert told["verdicts"]["real"]["accuracy"] == pytest.approx(first)
    sent, written = TOKENS
    assert told["cost"]["answers"] == len(server.paid)
    assert told["cost"]["dollars"] == pytest.approx(len(server.paid) * (2.5 * sent + 10 * written) / 1e6)


def test_graded_again_the_judge_is_paid_nothing_and_says_the_same(world):
    config, layout, server = world
    folder, paid = layout.benchmark(0, "base", "gap"), len(server.paid)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    grade.run(config, layout, seed=0, checkpoint="base", benchmark="gap")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert len(server.paid) == paid


@pytest.mark.parametrize("benchmark", ["geneval", "dpg", "coco", "gap"])
def test_every_folder_says_what_it_was_made_from(world, benchmark):
    _, layout, _ = world
    folder = layout.benchmark(0, "base", benchmark)
    files = {path.name for path in folder.iterdir() if path.is_file()} - {"images.npy", "images.json"}
    assert files == {"units.parquet", "rows.parquet", "values.json", "facts.json", "manifest.json"}
    manifest = read_json(folder / "manifest.json")
    assert manifest["seed"] == 0 and benchmark in manifest["config"]
    assert str(folder / "images.npy") in manifest["inputs"]


def test_images_of_other_prompts_than_the_file_has_now_are_refused(world):
    config, layout, _ = world
    path = layout.benchmark(1, "base", "coco") / "images.npy"
    write_codes(path, ["1", "2", "3"], np.zeros((3, 1, config.num_image_tokens)))
    with pytest.raises(ArtifactError, match=r"images\.npy.*draw anew"):
        grade.run(config, layout, seed=1, checkpoint="base", benchmark="coco")


def test_missing_reference_statistics_are_named_with_their_key(world):
    config, layout, _ = world
    coco = replace(config.benchmarks.coco, reference="nowhere.npz")
    other = replace(config, benchmarks=replace(config.benchmarks, coco=coco))
    with pytest.raises(DataError, match=r"nowhere\.npz.*benchmarks\.coco\.reference.*docs/dpg-and-coco"):
        grade.run(other, layout, seed=0, checkpoint="base", benchmark="coco")
