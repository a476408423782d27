"""What the real command line leaves of a tiny checkpoint (`both_runs`), and what goes wrong with it."""

import io
import json
import random
import shutil
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lmms_eval.api.instance import Instance
from PIL import Image

from hermesflow.core.errors import ArtifactError, ConfigError, DataError
from hermesflow.core.files import read_json, read_table
from hermesflow.evaluation.benchmarks import pope
from hermesflow.evaluation.bootstrap import estimate
from hermesflow.evaluation.evaluated import UNIT_COLUMNS, Evaluated
from hermesflow.evaluation.lmms import results, summary
from hermesflow.evaluation.lmms.answering import pixel_digest
from hermesflow.evaluation.lmms.run import read_run

from . import world
from .world import SHORT

pytestmark = pytest.mark.lmms


@pytest.fixture(scope="module")
def root(small_world):
    return small_world.root


@pytest.fixture(scope="module")
def oracle(small_world):
    return small_world.oracle


@pytest.fixture(scope="module")
def out(all_columns):
    return all_columns


@pytest.fixture(scope="module")
def run(both_runs):
    return both_runs


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


def test_answers_are_the_models_own(run, out, oracle):
    (path,) = out.glob("*/*_samples_vqav2_val_local.jsonl")
    questions = [json.loads(line)["input"] for line in path.read_text().splitlines()]
    assert questions == [f"What is {key}?{SHORT}" for key in (1, 2)]
    said = [sample["filtered_resps"] for sample in run.samples["vqav2_val"]]
    assert said == [oracle.says(key, f"What is {key}?{SHORT}") for key in (1, 2)]


def test_the_first_of_several_pictures_is_seen(run):
    assert run.images["mmmu_val", 1] == pixel_digest(world.picture(4))


def test_submission_has_the_test_questions_and_normal_answers(out, oracle):
    """The words of the world are normal but for letter case, full stops, the article and one number."""
    (path,) = (out / "submissions").glob("vqav2-test-submission-*.json")
    words = oracle.says(3, f"What is 3?{SHORT}").lower().replace(".", "").replace("two", "2").split()
    normal = " ".join(word for word in words if word != "a")
    assert json.loads(path.read_text()) == [{"question_id": 3, "answer": normal}]


def test_tampered_samples_do_not_add_up(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    (path,) = copy.glob("*/*_samples_gqa_local.jsonl")
    path.write_text(path.read_text().replace('"exact_match": 0.0', '"exact_match": 1.0'))
    with pytest.raises(ArtifactError, match=r"exact_match,none of gqa is 0\.5, but its samples add up to 1\.0"):
        results.run_units(read_run(copy))


def test_samples_of_another_form_are_told(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    (path,) = copy.glob("*/*_samples_mme_local.jsonl")
    path.write_text(path.read_text().replace("mme_cognition_score", "other"))
    with pytest.raises(ArtifactError, match="a sample of mme"):
        results.run_units(read_run(copy))


def test_truncated_samples_are_told_by_line(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    (path,) = copy.glob("*/*_samples_gqa_local.jsonl")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ArtifactError, match=r"samples_gqa_local\.jsonl, line 2"):
        read_run(copy)


def test_a_record_without_its_picture_is_told(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    table = read_table(copy / "images.parquet", ("task",))
    pd.DataFrame(table[table["task"] != "gqa_local"]).to_parquet(copy / "images.parquet")
    with pytest.raises(ArtifactError, match="nothing of task gqa, record"):
        results.run_units(read_run(copy))


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(ArtifactError, match="holds 0 files"):
        read_run(tmp_path)


@pytest.fixture(scope="module")
def plugin(root):
    from hermesflow.evaluation.lmms.plugin import HermesFlow

    return HermesFlow(pretrained=str(root / "model"), tokenizer=str(root / "tokenizer"), max_batch_size=None)


def asked(plugin, images, task="gqa"):
    """A question about pictures, as lmms-eval asks: record 7 of a task's split shows them."""
    plugin.task_dict[task] = {"val": {7: {"images": images}}}
    arguments = ("What?", {"max_new_tokens": 2}, lambda record: record["images"], 7, task, "val")
    return Instance("generate_until", arguments, 0, {"task": task, "doc_id": 7, "repeats": 1})


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_all_kinds_are_seen_as_rgb(plugin, mode):
    """Tasks of their own may give pictures that are not RGB."""
    picture = world.picture(1).convert(mode)
    assert plugin._look([asked(plugin, [picture, world.picture(2)])]) == [pixel_digest(picture.convert("RGB"))]


@pytest.mark.parametrize("images", [None, [], ["a.png"]])
def test_a_record_without_a_picture_is_named(plugin, images):
    with pytest.raises(DataError, match="task gqa, split val, record 7: shows no image"):
        plugin.generate_until([asked(plugin, images)])


def asked_of_a_file(plugin, data):
    """The same of a picture that is read when it is looked at."""
    _, settings, _, *rest = asked(plugin, data).args
    arguments = ("What?", settings, lambda record: [Image.open(io.BytesIO(record["images"]))], *rest)
    return Instance("generate_until", arguments, 0, {"task": "gqa", "doc_id": 7, "repeats": 1})


def png(number):
    file = io.BytesIO()
    world.picture(number).save(file, format="PNG")
    return file.getvalue()


def test_a_truncated_picture_is_told_and_seen_as_lmms_eval_reads_it(plugin, capsys):
    plugin.generate_until([asked_of_a_file(plugin, png(1)[:2000])])
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("lmms-eval: task gqa, split val, record 7: image file is truncated")


def test_a_broken_picture_is_named(plugin):
    with pytest.raises(DataError, match=r"split val, record 7: its picture is missing or broken \(.*identify"):
        plugin.generate_until([asked_of_a_file(plugin, png(1)[8:])])  # without its signature


@pytest.mark.parametrize(
    ("answer", "read"),
    [("Yes.", "yes"), (" The dog's\ntwo ears ", "dog's 2 ears"), ("dont know", "don't know"), ("1,000", "1000")],
)
def test_vqav2_answers_for_the_server_are_normal(plugin, monkeypatch, answer, read):
    monkeypatch.setattr("hermesflow.evaluation.lmms.plugin.answers", lambda *_: [answer])
    assert plugin.generate_until([asked(plugin, [world.picture(1)], "vqav2_test_local")]) == [read]
    assert plugin.generate_until([asked(plugin, [world.picture(1)], "vqav2_val")]) == [answer]  # lmms-eval does it


MULTIPLE = {"id": "validation_Art_1", "question_type": "multiple-choice", "options": "['red', 'dog']", "answer": "A"}


@pytest.mark.parametrize(
    ("task", "answer", "count"),
    [
        *(("pope_adv", "A dog.", 1), ("pope_adv_local", "Not at all", 0), ("pope_adv", "It is. No", 1)),
        *(("mme", "maybe", 1), ("mme", "Yes, it is", 0), ("mmmu_val", "nothing", 1), ("mmmu_val", "(B)", 0)),
    ],
)
def test_answers_that_the_scorer_cannot_read_are_counted(plugin, monkeypatch, task, answer, count):
    """POPE takes them for yes, MME for wrong, and MMMU guesses: its random numbers are not touched."""
    monkeypatch.setattr("hermesflow.evaluation.lmms.plugin.answers", lambda *_: [answer])
    monkeypatch.setattr(plugin, "_counts", defaultdict(Counter))
    request = asked(plugin, [world.picture(1)], task)
    plugin.task_dict[task]["val"][7] |= MULTIPLE
    state = random.getstate()
    plugin.generate_until([request])
    assert random.getstate() == state
    assert plugin._counts == {"answers that cannot be read": {task.removesuffix("_local"): count}}


def test_what_did_not_go_through_as_it_came_stands_under_the_table(out, run, tmp_path):
    """The world's first question of MMMU shows one picture, its second two."""
    counts = read_json(out / "counts.json")
    assert set(counts["answers that cannot be read"]) == {*pope.SPLITS, "mme", "mmmu_val"}
    assert counts["questions of whose pictures the first is seen"] == {"mmmu_val": 1}
    for task, what in (("mme", ["answers that cannot be read"]), ("mmmu_val", list(counts)), ("gqa", [])):
        summary.summarise(replace(run, samples={task: run.samples[task]}), tmp_path)
        facts = read_json(tmp_path / "facts.json")
        assert {name: facts[name] for name in counts if name in facts} == {n: {task: counts[n][task]} for n in what}


@pytest.mark.parametrize(
    ("task", "read"),
    [("pope_adv", "no"), ("flickr30k_test", "No dog. It"), ("gqa", "No\rdog. It"), ("mme", "No\rdog. It")],
)
def test_answers_of_pope_and_captions_are_read_and_others_untouched(plugin, monkeypatch, task, read):
    monkeypatch.setattr("hermesflow.evaluation.lmms.plugin.answers", lambda *_: ["No\rdog. It"])
    assert plugin.generate_until([asked(plugin, [world.picture(1)], task)]) == [read]


def test_progress_counts_pictures_and_answers(plugin, capsys):
    plugin.generate_until([asked(plugin, [world.picture(1)])] * 3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("questions,")[0] for line in lines] == [
        "lmms-eval: see the pictures of: 3/3 ",
        "lmms-eval: answer: 3/3 ",
    ]


def test_arguments_are_checked(root):
    from hermesflow.evaluation.lmms.plugin import HermesFlow

    folders = {"pretrained": str(root / "model"), "tokenizer": str(root / "tokenizer")}
    with pytest.raises(ConfigError, match="precision=int4"):
        HermesFlow(**folders, precision="int4")
    with pytest.raises(ConfigError, match="unknown"):
        HermesFlow(**folders, unknown=1)
    with pytest.raises(ConfigError, match="auto"):
        HermesFlow(**folders, batch_size="auto")
