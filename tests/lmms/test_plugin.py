"""The real command line on a tiny checkpoint and small benchmarks whose right answers are set from what it says."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hermesflow.artifacts import read_table
from hermesflow.errors import ArtifactError, ConfigError
from hermesflow.evaluation.statistics import MME_FULL, UNIT_COLUMNS, Evaluated, estimate
from hermesflow.lmms import karpathy, results
from hermesflow.lmms.answering import pixel_digest, pope_reading
from hermesflow.lmms.running import BENCHMARKS, Evaluation, evaluate

from . import world
from .world import SHORT

pytestmark = pytest.mark.lmms
OTHER = {"yes": "no", "no": "yes"}
NOBODY = "zebra"
"""What no answer is."""


def write_pope(folder, oracle):
    """random: 3 of 5 right; popular: both right; adversarial: both wrong."""
    for name, shown, right in (
        ("pope_random", (1, 1, 2, 2, 3), (True, True, True, False, False)),
        ("pope_pop", (1, 2), (True, True)),
        ("pope_adv", (1, 2), (False, False)),
    ):
        said = [
            pope_reading(oracle.says(number, f"Is there a dog {key} in the image?{SHORT}", 128))
            for key, number in enumerate(shown)
        ]
        truth = [one if good else OTHER[one] for one, good in zip(said, right, strict=True)]
        world.pope(folder, name, list(zip(range(len(shown)), shown, truth, strict=True)))


def write_mme(folder, oracle):
    """Both questions right but for `count` (one right) and all of cognition but code_reasoning (both wrong)."""
    rows = []
    for category in (*MME_FULL["perception"], *MME_FULL["cognition"]):
        number, said = next(
            (number, said)
            for number in range(100)
            if set(said := [first_word(oracle.says(number, f"Is it red {len(rows) + i}?{SHORT}")) for i in (0, 1)])
            <= OTHER.keys()
        )
        wrong = {"count": (1,)}.get(category, ())
        if category in MME_FULL["cognition"] and category != "code_reasoning":
            wrong = (0, 1)
        rows += [(category, number, (OTHER[one] if i in wrong else one).title()) for i, one in enumerate(said)]
    world.mme(folder, rows)


def first_word(text):
    return text.lower().replace(".", "").split()[0] if text else ""


def write_flickr(folder, oracle):
    """The first caption is copied from the reference, the others share no word with theirs."""
    question = "Provide a one-sentence caption for the provided image."
    number = next(n for n in range(1, 100) if len(set(oracle.says(n, question, 64).split())) >= 2)
    said = oracle.says(number, question, 64)
    assert len(said.split()) > 4
    world.flickr(folder, [(number, [said]), (200, ["zebra horse cow sheep bird"]), (201, ["tree house road car bus"])])
    images = [{"filename": f"{1000 + n}.jpg", "split": "train" if n == 201 else "test"} for n in (number, 200, 201)]
    (folder / "splits.json").write_text(json.dumps({"images": images}))


def write_rest(folder, oracle):
    said = {key: oracle.says(key, f"What is {key}?{SHORT}") for key in (1, 2)}
    assert all(said.values())
    world.vqav2(folder, [(1, 1, [said[1]] * 2 + [NOBODY] * 8), (2, 2, [said[2]] * 4 + [NOBODY] * 6), (3, 3, None)])
    said = {key: oracle.says(key, f"What is g{key}?{SHORT}") for key in (1, 2)}
    world.gqa(folder, [("g1", 1, said[1].upper() + "!"), ("g2", 2, NOBODY)])
    asked = "<image 1> <image 2> What is it?\n\nAnswer the question using a single word or phrase."
    open_ = oracle.says(4, asked, 128)
    world.mmmu(
        folder,
        [
            ("validation_Art_1", [1], "multiple-choice", ["red", "dog"], "Z"),
            ("validation_Math_2", [4, 5], "open", [], open_),
        ],
    )
    choices = ["red", "two dog", "3"]
    nats = oracle.nats(1, "What?", choices)
    likeliest, least = nats.index(max(nats)), nats.index(min(nats))
    world.choice(folder, [(1, "What?", choices, likeliest), (1, "What?", choices, least)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmms")
    world.checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def oracle(root):
    return world.Oracle(root)


@pytest.fixture(scope="module", autouse=True)
def offline(root):
    """Nothing asks the hub, and what `datasets` makes lies here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(root / "cache"))
        patch.setenv(karpathy.SPLITS, str(root / "tasks" / "splits.json"))
        yield


@pytest.fixture(scope="module")
def out(root, oracle):
    tasks = root / "tasks"
    for write in (write_pope, write_mme, write_flickr, write_rest):
        write(tasks, oracle)
    names = [f"{task}_local" for some in BENCHMARKS.values() for task in some]
    evaluation = Evaluation(
        model=root / "model",
        tokenizer=root / "tokenizer",
        tasks=[*names, "choice_local"],
        batch_size=2,
        include=tasks,
    )
    evaluate(evaluation, root / "out", python=Path(sys.executable))
    return root / "out"


@pytest.fixture(scope="module")
def run(out):
    return results.read_run(out)


@pytest.fixture(scope="module")
def units(run):
    return results.run_units(run)


@pytest.fixture(scope="module")
def figures(units):
    return results.figures_of(units)


def test_every_cell_is_the_number_worked_out_by_hand(figures):
    assert figures["pope/random/accuracy"] == pytest.approx(3 / 5)
    assert figures["pope/popular/accuracy"] == 1
    assert figures["pope/adversarial/accuracy"] == 0
    assert figures["pope/accuracy"] == pytest.approx((3 / 5 + 1 + 0) / 3)
    assert figures["mme/count/accuracy"] == 50
    assert figures["mme/count/accuracy_plus"] == 0
    assert figures["mme/perception"] == pytest.approx(9 * 200 + 50)
    assert figures["mme/perception/accuracy"] == pytest.approx((9 * 100 + 50) / 10)
    assert figures["mme/perception/accuracy_plus"] == pytest.approx(9 * 100 / 10)
    assert figures["mme/cognition"] == pytest.approx(200)
    # question 1: to 2 of 10 annotators 1 other agrees (1/3), to 8 of 10 two agree (2/3); question 2: always 3 or more
    assert figures["vqav2"] == pytest.approx(((2 * 1 / 3 + 8 * 2 / 3) / 10 + 1) / 2)
    assert figures["gqa"] == 0.5
    assert figures["mmmu"] == 0.5
    # a copy of its only reference scores 10, a caption that shares no word with it 0
    assert figures["flickr30k/full/cider"] == pytest.approx(10 / 3)
    assert figures["flickr30k/karpathy/cider"] == pytest.approx(10 / 2)


def test_rows_are_what_the_bootstrap_takes(units):
    assert tuple(units.columns) == UNIT_COLUMNS
    assert not units.duplicated(["metric", "id"]).any()
    questions = units[units["metric"] == "pope/random/accuracy"].set_index("id")["denominator"]
    shown = {pixel_digest(world.picture(number)): count for number, count in ((1, 2), (2, 2), (3, 1))}
    assert questions.to_dict() == shown  # one row per picture, not per question


def test_the_bootstrap_gives_the_same_figures(units, figures):
    nothing = np.zeros((0, 1))
    found = estimate(Evaluated(units, nothing, nothing), resamples=10)
    assert dict(zip(found.metrics, found.values, strict=True)) == pytest.approx(figures)
    assert found.replicates.std(axis=0)[found.metrics.index("pope/accuracy")] > 0


def test_answers_are_the_models_own(run, oracle):
    said = {sample["input"]: sample["filtered_resps"] for sample in run.samples["vqav2_val"]}
    assert said == {f"What is {key}?{SHORT}": oracle.says(key, f"What is {key}?{SHORT}") for key in (1, 2)}


def test_the_first_of_several_pictures_is_seen(run):
    assert run.images["mmmu_val", 1] == pixel_digest(world.picture(4))


def test_submission_has_the_test_questions(run, oracle):
    assert results.submission(run) == [{"question_id": 3, "answer": oracle.says(3, f"What is 3?{SHORT}")}]


def test_likeliest_choice_counts_as_chosen(run, oracle):
    assert run.figures["choice"]["acc,none"] == 0.5  # the first record's label is the likeliest, the second's the least
    losses = [float(loss) for loss, _ in run.samples["choice"][0]["filtered_resps"]]
    assert losses == pytest.approx([-nats for nats in oracle.nats(1, "What?", ["red", "two dog", "3"])], abs=1e-4)


def test_tampered_samples_do_not_add_up(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    (path,) = copy.glob("*/*_samples_gqa_local.jsonl")
    path.write_text(path.read_text().replace('"exact_match": 0.0', '"exact_match": 1.0'))
    with pytest.raises(ArtifactError, match=r"exact_match,none of gqa is 0\.5, but its samples add up to 1\.0"):
        results.run_units(results.read_run(copy))


def test_samples_of_another_form_are_told(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    (path,) = copy.glob("*/*_samples_mme_local.jsonl")
    path.write_text(path.read_text().replace("mme_cognition_score", "other"))
    with pytest.raises(ArtifactError, match="a sample of mme"):
        results.run_units(results.read_run(copy))


def test_truncated_samples_are_told_by_line(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    (path,) = copy.glob("*/*_samples_gqa_local.jsonl")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ArtifactError, match=r"samples_gqa_local\.jsonl, line 2"):
        results.read_run(copy)


def test_a_record_without_its_picture_is_told(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    table = read_table(copy / "images.parquet", ("task",))
    pd.DataFrame(table[table["task"] != "gqa_local"]).to_parquet(copy / "images.parquet")
    with pytest.raises(ArtifactError, match="nothing of task gqa, record"):
        results.run_units(results.read_run(copy))


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(ArtifactError, match="holds 0 files"):
        results.read_run(tmp_path)


def test_an_error_of_the_model_ends_the_run(root, out, tmp_path):
    evaluation = Evaluation(
        model=tmp_path / "nothing", tokenizer=root / "tokenizer", tasks=["gqa_local"], include=root / "tasks"
    )
    with pytest.raises(ArtifactError, match=r"model\.safetensors: cannot be read"):
        evaluate(evaluation, tmp_path / "out", python=Path(sys.executable))


def test_arguments_are_checked(root):
    from hermesflow.lmms.plugin import HermesFlow

    folders = {"pretrained": str(root / "model"), "tokenizer": str(root / "tokenizer")}
    with pytest.raises(ConfigError, match="precision=int4"):
        HermesFlow(**folders, precision="int4")
    with pytest.raises(ConfigError, match="unknown"):
        HermesFlow(**folders, unknown=1)
    with pytest.raises(ConfigError, match="auto"):
        HermesFlow(**folders, batch_size="auto")
