import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hermesflow.config.judges import LocalVlm
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.core.files import read_json, sha256
from hermesflow.core.images import as_tensor, read_form, read_images, write_images
from hermesflow.data.pairs import read_pairs
from hermesflow.evaluation.benchmarks.gap import Gap
from hermesflow.evaluation.bootstrap import FIDELITY_POOL, point_values, resample_counts
from hermesflow.evaluation.evaluated import UNIT_COLUMNS, Evaluated
from hermesflow.evaluation.graders import fidelity
from hermesflow.evaluation.graders.fidelity import Caption, Gaussian, moments, write_reference
from hermesflow.evaluation.graders.inception import load_inception
from hermesflow.evaluation.graders.pretrained import PretrainedClip, digest_of
from hermesflow.evaluation.graders.reference_origin import origin
from hermesflow.evaluation.judges.protocol import Item
from hermesflow.models import backbone
from hermesflow.models.backbone import load_codec
from hermesflow.stages import grade
from tests.support.benchmark_world import CAPTIONS, DPG, GENEVAL, WITH_IMAGES, draw_all, make_world
from tests.support.chat_server import MODEL, TOKENS, ChatServer, first_choice
from tests.support.tiny_vlm import make_llava

SHIFT = 3.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everything drawn and graded; the reference is the drawn images' own but for one mean."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with ChatServer() as server:
        server.message = first_choice
        config, layout = make_world(folder, server.settings(folder / "cache"))
        for benchmark in WITH_IMAGES:
            draw_all(config, layout, benchmark)
        seen = features_of(config, images_of(layout, "coco"))
        own = moments(seen)
        shifted = np.where(np.arange(len(own.mean)) == 0, own.mean + SHIFT, own.mean)
        made_of = origin([Caption(*one) for one in CAPTIONS.items()], config.benchmarks.coco.inception)
        write_reference(Path(config.benchmarks.coco.reference), Gaussian(shifted, own.covariance), **made_of)
        for benchmark in WITH_IMAGES:
            grade.run(config, layout, seed=0, checkpoint="base", benchmark=benchmark)
        yield config, layout, server


def images_of(layout, benchmark):
    _, images = read_images(layout.benchmark(0, "base", benchmark) / "images.npy")
    return load_codec(layout.tokenizer, device="cpu").to_pixels(as_tensor(images).flatten(0, 1))


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
    assert facts(layout, "dpg")["answers"] == {"yes": 2 * len(DPG), "no": 0, "neither": 0}
    assert "2 prompts x 2 images (the whole has 1,065 x 4)" in facts(layout, "dpg")["protocol"]
    assert facts(layout, "dpg")["scorers"] == {"judge": config.benchmarks.dpg.judge}


def test_the_frechet_distance_to_the_same_moments_with_one_mean_shifted(world):
    """|mean - mean|^2 = 3^2; the covariances are the same."""
    config, layout, _ = world
    values = read_json(layout.benchmark(0, "base", "coco") / "values.json")
    fid = values.pop("fid")
    assert not values and fid["value"] == pytest.approx(SHIFT**2, abs=1e-3)
    assert fid["items"] == len(CAPTIONS) and len(fid["replicates"]) == config.evaluation.bootstrap


def test_a_resample_of_the_frechet_distance_by_hand(world):
    """Of one image alone: no variance is left of it, so |x - mean|^2 and the trace of the reference."""
    config, layout, _ = world
    counts = resample_counts(FIDELITY_POOL, len(CAPTIONS), resamples=config.evaluation.bootstrap)
    alone = int(np.flatnonzero(counts.max(axis=1) == len(CAPTIONS))[0])
    reference = fidelity.read_reference(Path(config.benchmarks.coco.reference))
    drawn = features_of(config, images_of(layout, "coco"))[counts[alone].argmax()]
    wanted = ((drawn - reference.mean) ** 2).sum() + np.trace(reference.covariance)
    fid = read_json(layout.benchmark(0, "base", "coco") / "values.json")["fid"]
    assert fid["replicates"][alone] == pytest.approx(wanted, rel=1e-6)


def test_the_clip_score_is_that_of_each_drawn_image_with_its_own_caption(world):
    config, layout, _ = world
    clip = PretrainedClip(config.benchmarks.coco.clip)
    expected = fidelity.clip_scores(clip, list(images_of(layout, "coco")), list(CAPTIONS.values()))
    rows = pd.read_parquet(layout.benchmark(0, "base", "coco") / "rows.parquet")
    assert list(rows["id"]) == [f"{key:012d}" for key in CAPTIONS]
    assert list(rows["clip_score"]) == pytest.approx(list(expected)) and len(set(expected)) == 3
    units = pd.read_parquet(layout.benchmark(0, "base", "coco") / "units.parquet")
    assert set(units["metric"]) == {"clip_score"} and units["numerator"].sum() / 3 == pytest.approx(expected.mean())
    assert "48 x 48 pixels for each of 3 captions (COCO-30K has 30,000)" in facts(layout, "coco")["protocol"]
    (pin,) = config.benchmarks.coco.inception.files.values()
    assert facts(layout, "coco")["scorers"]["inception"].endswith(f"(sha256 {pin})")
    reference = config.benchmarks.coco.reference
    told = facts(layout, "coco")["scorers"]["reference"]
    assert told == f"{reference} (sha256 {sha256(Path(reference))}; of the list's 3 real images)"


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


def test_a_key_that_is_not_set_is_told_before_the_model_answers(world, tmp_path, monkeypatch):
    config, layout, server = world
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    monkeypatch.setattr(backbone, "load_model", lambda *_, **__: pytest.fail("the model need not be loaded"))
    judge = server.settings(tmp_path / "cache", key_variable="JUDGE_KEY")
    other = replace(config, benchmarks=replace(config.benchmarks, gap=Gap(judge=judge)))
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        grade.run(other, layout, seed=0, checkpoint="base", benchmark="gap")


def test_graded_again_the_judge_is_paid_nothing_and_says_the_same(world):
    config, layout, server = world
    folder, paid = layout.benchmark(0, "base", "gap"), len(server.paid)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    grade.run(config, layout, seed=0, checkpoint="base", benchmark="gap")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert len(server.paid) == paid


@pytest.mark.parametrize("benchmark", WITH_IMAGES)
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
    form = read_form(layout.benchmark(0, "base", "coco") / "images.npy")
    write_images(path, ["1", "2", "3"], np.zeros((3, 1, config.num_image_tokens)), form)
    with pytest.raises(ArtifactError, match=r"images\.npy.*draw anew"):
        grade.run(config, layout, seed=1, checkpoint="base", benchmark="coco")


def test_images_of_another_text_under_the_same_number_are_refused(world, tmp_path):
    config, layout, _ = world
    prompts = tmp_path / "g.jsonl"
    prompts.write_text("".join(f"{json.dumps(line)}\n" for line in GENEVAL).replace("photo of a cat", "photo of a dog"))
    own = replace(config.benchmarks.geneval, prompts=str(prompts))
    other = replace(config, benchmarks=replace(config.benchmarks, geneval=own))
    with pytest.raises(ArtifactError, match=r"images\.npy: was drawn from other texts than geneval's.*draw anew"):
        grade.run(other, layout, seed=0, checkpoint="base", benchmark="geneval")


def test_a_local_judge_grades_too(world, tmp_path):
    """An untrained one names no choice, which counts as wrong."""
    config, layout, _ = world
    questions = [q for row in read_pairs(layout.data("gap")) for q in row["questions"]]
    items = [Item("a", "seen", q["question"], tuple(q["choices"]), q["answer"]) for q in questions]
    vlm = make_llava(tmp_path / "vlm", dict.fromkeys(items, "nothing"))
    cache = str(tmp_path / "cache")
    judge = LocalVlm(kind="local", model=str(vlm), cache=cache, dtype="float32", max_new_tokens=2)
    other = replace(config, benchmarks=replace(config.benchmarks, gap=Gap(judge=judge)))
    shutil.copytree(layout.checkpoint(0, "base"), layout.checkpoint(2, "base"))
    grade.run(other, layout, seed=2, checkpoint="base", benchmark="gap")
    told = read_json(layout.benchmark(2, "base", "gap") / "facts.json")
    assert told["scorers"]["judge"] == str(vlm) and "cost" not in told
    assert told["verdicts"]["drawn"]["cut short"] == told["questions"] == len(questions)
    assert told["digest of the judge"] == digest_of(str(vlm))[:16]
    assert pd.read_parquet(layout.benchmark(2, "base", "gap") / "rows.parquet")["generation"].sum() == 0
