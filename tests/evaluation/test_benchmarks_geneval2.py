"""GenEval 2 by itself, and all that its module declares: section, generation, grading, table, plan."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from hermesflow.budget import disk
from hermesflow.budget.benchmarks import drawings
from hermesflow.budget.graders import grading
from hermesflow.cli import main
from hermesflow.cli.dvc import check_benchmarks
from hermesflow.cli.fetching import sources_of
from hermesflow.config.benchmarks import Benchmarks
from hermesflow.config.experiment import as_plain
from hermesflow.config.load import load_config
from hermesflow.config.sections import Source
from hermesflow.core.errors import ConfigError, DataError
from hermesflow.core.files import read_json, write_table, write_weights
from hermesflow.core.images import as_tensor, read_images
from hermesflow.evaluation.benchmarks import geneval2
from hermesflow.evaluation.benchmarks.geneval2 import (
    LICENCE,
    GenEval2,
    Question,
    geneval2_units,
    grade,
    read_prompts,
    soft_tifa,
)
from hermesflow.evaluation.bootstrap import estimate, point_values, summarise
from hermesflow.evaluation.evaluated import UNIT_COLUMNS, Evaluated
from hermesflow.evaluation.graders.answer_probability import TransformersAnswerProbability
from hermesflow.evaluation.registry import read_prompts as prompts_of
from hermesflow.models.backbone import load_codec
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import total
from hermesflow.report.facts import benchmark_lines
from hermesflow.report.formatting import EMPTY
from hermesflow.report.tables import all_tables
from hermesflow.stages import draw, report
from hermesflow.stages import grade as grade_stage
from hermesflow.stages.report import benchmark_folders
from tests.stages.test_stage_grade_kept import check_killed, count_calls
from tests.stages.test_stage_report_benchmarks import (
    cells,
    config_of,
    make_results,
    units_of,
    write_benchmark,
    write_benchmarks,
    write_own,
)
from tests.support import benchmark_world
from tests.support.benchmark_models import save_qwen3_vl
from tests.support.benchmark_world import draw_all
from tests.support.report_world import PAPER_TABLES, own_metrics_of, real_metrics_of, real_summary, showo

SHOWO = Path(__file__).parents[2] / "config" / "showo.yaml"
SECTION = GenEval2(prompts="geneval2_data.jsonl", judge="qwen")

OWLS = {  # "a" counts as no part of the prompt, but how many there are is asked
    "prompt": "two tin owls near a lamp",
    "atom_count": 5,
    "vqa_list": [
        ["How many owls are in the image?", "two"],
        ["Are the owls tin?", "Yes"],
        ["Are there any owls in the image?", "Yes"],
        ["Are the owls near the lamp?", "Yes"],
        ["How many lamps are in the image?", "one"],
        ["Are there any lamps in the image?", "Yes"],
    ],
    "skills": ["count", "attribute", "object", "position", "count", "object"],
}
FOXES = {
    "prompt": "ten foxes",
    "atom_count": 2,
    "vqa_list": [["How many foxes are in the image?", "ten"], ["Are there any foxes in the image?", "Yes"]],
    "skills": ["count", "object"],
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def prompts(tmp_path):
    return read_prompts(write(tmp_path / "geneval2_data.jsonl", OWLS, FOXES))


class Says:
    """A model that gives prepared probabilities and keeps what it was asked."""

    def __init__(self, *probabilities):
        self._next = iter(probabilities)
        self.asked = []

    def probability(self, image, question, answers):
        self.asked.append((question, tuple(answers)))
        return next(self._next)


def image():
    return Image.new("RGB", (64, 64), "red")


def values(table):
    return point_values(Evaluated(geneval2_units(table), np.zeros((0, 1)), np.zeros((0, 1))))


def test_the_file_is_read(prompts):
    owls, foxes = prompts
    assert (owls.text, owls.atom_count, len(owls.questions)) == ("two tin owls near a lamp", 5, 6)
    assert owls.questions[1] == Question("Are the owls tin?", "Yes", "attribute")
    assert foxes.questions[0] == Question("How many foxes are in the image?", "ten", "count")


def test_the_licence_is_printed_once_when_the_data_is_read(tmp_path, capsys):
    geneval2.print_licence.cache_clear()
    with pytest.raises(DataError):
        read_prompts(tmp_path / "missing.jsonl")
    assert capsys.readouterr().err == ""
    for _ in range(2):
        read_prompts(write(tmp_path / "geneval2_data.jsonl", FOXES))
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"{LICENCE}\n")
    assert "CC BY-NC" in LICENCE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"skills": ["count"]}, "expected one skill per question, got 1 for 2 questions"),
        ({"skills": ["count", "colour"]}, "skill 'colour' is none of object"),
        ({"vqa_list": [["How many foxes?", "many"], ["Any?", "Yes"]]}, "'many', none of one, two"),
        ({"vqa_list": [["How many foxes?", "ten"], ["Any?", "No"]]}, "'No', none of Yes"),
        ({"vqa_list": [["How many foxes?"], ["Any?", "Yes"]]}, "ValueError"),
        ({"vqa_list": [], "skills": []}, "`vqa_list` is empty"),
        ({"prompt": ""}, "is empty"),
        ({"atom_count": "2"}, "expected atom_count to be a positive integer, got '2'"),
        ({"atom_count": 0}, "expected atom_count to be a positive integer, got 0"),
    ],
)
def test_a_broken_line_is_named(tmp_path, change, said):
    with pytest.raises(DataError, match=f"line 2: .*{said}"):
        read_prompts(write(tmp_path / "geneval2_data.jsonl", OWLS, FOXES | change))


def test_a_file_of_another_form_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 1.*KeyError: 'vqa_list'"):
        read_prompts(write(tmp_path / "a.jsonl", {"tag": "counting", "prompt": "two owls"}))
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"b\.jsonl: holds no prompts"):
        read_prompts(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"c\.jsonl, line 1"):
        read_prompts(tmp_path / "c.jsonl")


def test_right_answers_are_words_and_digits_in_the_released_forms():
    ten = Question("How many foxes are in the image?", "ten", "count")
    assert set(ten.forms) == {"ten", "Ten", " ten", " Ten", "10", " 10"}
    tin = Question("Are the owls tin?", "Yes", "attribute")
    assert set(tin.forms) == {"Yes", "yes", " yes", " Yes"}


def test_one_word_is_asked_for(prompts):
    judge = Says(0.5, 0.5)
    grade(1, prompts[1], [image()], judge)
    assert judge.asked[0] == ("How many foxes are in the image? Answer in one word.", prompts[1].questions[0].forms)
    assert judge.asked[1][0] == "Are there any foxes in the image? Answer in one word."


@pytest.mark.parametrize(
    ("probabilities", "am", "gm"),
    [
        ([0.2, 0.8], 0.5, 0.4),  # sqrt(0.16)
        ([0.1, 0.4, 0.4, 1.0], 0.475, 0.35565588),  # 0.016 ** (1 / 4)
        ([1.0, 0.0, 1.0], 2 / 3, 0.0),  # nothing is added to zeros
        ([0.7], 0.7, 0.7),
        ([1.0, 1.0], 1.0, 1.0),
    ],
)
def test_soft_tifa_by_hand(probabilities, am, gm):
    assert soft_tifa(probabilities) == (pytest.approx(am), pytest.approx(gm, abs=1e-8))


def test_figures_by_hand(prompts):
    owls, foxes = prompts
    table = pd.concat(
        [
            grade(0, owls, [image()], Says(0.5, 1.0, 1.0, 0.125, 1.0, 1.0)),
            grade(1, foxes, [image()], Says(0.2, 0.8)),
        ]
    )
    found = values(table)
    # owls: AM 4.625 / 6, GM (1 / 16) ** (1 / 6) = 2 ** (-2 / 3); foxes: 0.5 and 0.4; prompts weigh the same
    assert found["geneval2/am"] == pytest.approx((4.625 / 6 + 0.5) / 2)
    assert found["geneval2/gm"] == pytest.approx((2 ** (-2 / 3) + 0.4) / 2)
    assert found["geneval2/atomicity/5"] == pytest.approx(2 ** (-2 / 3))  # six questions, five parts
    assert found["geneval2/atomicity/2"] == pytest.approx(0.4)
    # skills are over questions: counts 0.5, 1, 0.2; objects 1, 1, 0.8
    assert found["geneval2/skill/count"] == pytest.approx(1.7 / 3)
    assert found["geneval2/skill/object"] == pytest.approx(2.8 / 3)
    assert found["geneval2/skill/attribute"] == pytest.approx(1.0)
    assert found["geneval2/skill/position"] == pytest.approx(0.125)
    assert "geneval2/skill/verb" not in found


def test_a_prompt_is_the_mean_of_its_images(prompts):
    found = values(grade(1, prompts[1], [image()] * 2, Says(0.2, 0.8, 0.9, 0.1)))
    assert found["geneval2/am"] == pytest.approx(0.5)
    assert found["geneval2/gm"] == pytest.approx((0.4 + 0.3) / 2)  # not sqrt of means
    assert found["geneval2/skill/count"] == pytest.approx((0.2 + 0.9) / 2)


def test_equal_prompts_stay_apart(prompts):
    twice = [grade(0, prompts[1], [image()], Says(0.2, 0.8)), grade(1, prompts[1], [image()], Says(1.0, 1.0))]
    assert values(pd.concat(twice))["geneval2/gm"] == pytest.approx((0.4 + 1.0) / 2)
    assert tuple(geneval2_units(pd.concat(twice)).columns) == UNIT_COLUMNS


def test_every_metric_is_resampled_by_prompt(prompts):
    owls, foxes = prompts
    tables = [grade(0, owls, [image()], Says(*[0.5] * 6)), grade(1, foxes, [image()], Says(0.2, 0.8))]
    found = estimate(Evaluated(geneval2_units(pd.concat(tables)), np.zeros((0, 1)), np.zeros((0, 1))), resamples=50)
    items = dict(zip(found.metrics, found.items, strict=True))
    assert (items["geneval2/gm"], items["geneval2/atomicity/5"], items["geneval2/skill/count"]) == (2, 1, 2)
    drawn = found.replicates[:, found.metrics.index("geneval2/gm")]
    assert {round(value, 6) for value in drawn} == {0.4, 0.45, 0.5}


def test_no_image_or_no_probability_stops_the_grading(prompts):
    with pytest.raises(DataError, match=r"prompt 1 \('ten foxes'\): no image"):
        grade(1, prompts[1], [], Says())
    for broken in (1.2, -0.1, float("nan")):
        with pytest.raises(DataError, match=r"prompt 1, 'Are there any foxes.*expected a probability"):
            grade(1, prompts[1], [image()], Says(0.5, broken))


def test_from_the_file_to_the_table_cell_with_a_real_model(tmp_path, prompts):
    judge = TransformersAnswerProbability(str(save_qwen3_vl(tmp_path / "qwen")))
    table = pd.concat([grade(number, prompt, [image()], judge) for number, prompt in enumerate(prompts)])
    assert len(table) == 8 and table["probability"].between(0, 1).all() and table["probability"].nunique() > 4
    owls, foxes = (list(own["probability"]) for _, own in table.groupby("prompt"))
    found = values(table)
    assert found["geneval2/am"] == pytest.approx((sum(owls) / 6 + sum(foxes) / 2) / 2)
    assert found["geneval2/gm"] == pytest.approx((np.prod(owls) ** (1 / 6) + np.prod(foxes) ** (1 / 2)) / 2)


CATS = (
    {
        "prompt": "two red cats",
        "atom_count": 3,
        "vqa_list": [
            ["How many cats are in the image?", "two"],
            ["Are the cats red?", "Yes"],
            ["Are there any cats in the image?", "Yes"],
        ],
        "skills": ["count", "attribute", "object"],
    },
    {
        "prompt": "ten cats",
        "atom_count": 2,
        "vqa_list": [["How many cats are in the image?", "ten"], ["Are there any cats in the image?", "Yes"]],
        "skills": ["count", "object"],
    },
)
"""The prompts of the world."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Generated and graded by tiny models, and the config as a file."""
    folder = tmp_path_factory.mktemp("geneval2")
    config, layout = benchmark_world.make_world(folder)
    file = benchmark_world.write_lines(folder / "geneval2_data.jsonl", CATS)
    section = GenEval2(prompts=str(file), images=2, judge=str(save_qwen3_vl(folder / "qwen")))
    config = replace(
        config, benchmarks=Benchmarks(untried=benchmark_world.UNTRIED, geneval2=section, coco=config.benchmarks.coco)
    )
    draw_all(config, layout, "geneval2")
    grade_stage.run(config, layout, seed=0, checkpoint="base", benchmark="geneval2")
    path = folder / "own.yaml"
    plain = {**as_plain(config), "name": layout.root.name}  # where the command looks
    path.write_text(yaml.safe_dump(json.loads(json.dumps(plain))))
    return config, layout, path


def folder_of(layout):
    return layout.benchmark(0, "base", "geneval2")


def images_of(layout):
    _, images = read_images(folder_of(layout) / "images.npy")
    return load_codec(layout.tokenizer, device="cpu").to_pixels(as_tensor(images).flatten(0, 1))


def export(world, benchmark, folder):
    _, layout, path = world
    own = ["--seed", "0", "--checkpoint", "base", "--benchmark", benchmark, "--to", str(folder)]
    return main.main(["export-images", "--config", str(path), "--results", str(layout.root.parent), *own])


def test_a_store_has_the_prompts_of_the_file_in_its_order(world):
    _, layout, _ = world
    ids, codes = read_images(folder_of(layout) / "images.npy")
    assert ids == ["0000", "0001"] and codes.shape[:2] == (2, 2)
    assert len({row.tobytes() for prompt in codes for row in prompt}) == 4


def test_its_images_do_not_depend_on_the_number_of_shards(world):
    config, layout, _ = world
    once = (folder_of(layout) / "images.npy").read_bytes()
    assert (draw_all(config, layout, "geneval2", shards=2) / "images.npy").read_bytes() == once


def test_a_missing_file_is_named_with_its_key_and_origin(world):
    config, layout, _ = world
    other = replace(
        config, benchmarks=Benchmarks(geneval2=replace(config.benchmarks.geneval2, prompts="nowhere.jsonl"))
    )
    origin = r"nowhere\.jsonl.*benchmarks\.geneval2\.prompts.*facebookresearch/GenEval2 \(CC BY-NC 4\.0"
    with pytest.raises(DataError, match=origin):
        draw.run(other, layout, seed=0, checkpoint="base", benchmark="geneval2")


def test_whoever_generates_its_images_is_told_the_licence(world, capsys):
    config, layout, _ = world
    geneval2.print_licence.cache_clear()
    assert prompts_of(config.benchmarks, layout, "geneval2").texts == ("two red cats", "ten cats")
    assert "CC BY-NC" in capsys.readouterr().err


def test_a_grading_is_soft_tifa_of_the_judges_probabilities(world):
    """Of each image by hand, p the probabilities of its right answers: AM = sum p / n, GM = (prod p) ** (1 / n)."""
    config, layout, _ = world
    judge = TransformersAnswerProbability(config.benchmarks.geneval2.judge)
    yes, two, ten = (
        [f"{blank}{word}" for word in words for blank in ("", " ")]
        for words in (("Yes", "yes"), ("two", "Two", "2"), ("ten", "Ten", "10"))
    )
    many = "How many cats are in the image? Answer in one word."
    red, there = "Are the cats red? Answer in one word.", "Are there any cats in the image? Answer in one word."
    asked = [[(many, two), (red, yes), (there, yes)], [(many, ten), (there, yes)]]
    images = list(map(Image.fromarray, images_of(layout)))
    am, gm = [], []
    for questions, pair in zip(asked, (images[:2], images[2:]), strict=True):
        both = [[judge.probability(image, text, forms) for text, forms in questions] for image in pair]
        am.append(np.mean([sum(p) / len(p) for p in both]))
        gm.append(np.mean([np.prod(p) ** (1 / len(p)) for p in both]))
    units = pd.read_parquet(folder_of(layout) / "units.parquet")
    assert tuple(units.columns) == UNIT_COLUMNS
    found = point_values(Evaluated(units, np.zeros((0, 1)), np.zeros((0, 1))))
    assert found["geneval2/am"] == pytest.approx((am[0] + am[1]) / 2, rel=1e-3)
    assert found["geneval2/gm"] == pytest.approx((gm[0] + gm[1]) / 2, rel=1e-3)
    assert found["geneval2/atomicity/3"] == pytest.approx(gm[0], rel=1e-3)
    assert set(units["id"]) == set(read_images(folder_of(layout) / "images.npy")[0])


def test_a_grading_names_its_judge_and_the_licence_of_its_data(world):
    config, layout, _ = world
    told = read_json(folder_of(layout) / "facts.json")
    assert told["scorers"] == {"judge": config.benchmarks.geneval2.judge}
    assert (told["items"], told["images"], told["questions"]) == (2, 2, 5)
    assert "CC BY-NC 4.0" in told["licence of its data"]
    assert len(pd.read_parquet(folder_of(layout) / "rows.parquet")) == 2 * 5


def test_its_folder_says_what_it_was_made_from(world):
    _, layout, _ = world
    files = {path.name for path in folder_of(layout).iterdir() if path.is_file()} - {"images.npy", "images.json"}
    assert files == {"units.parquet", "rows.parquet", "values.json", "facts.json", "manifest.json"}
    manifest = read_json(folder_of(layout) / "manifest.json")
    assert manifest["seed"] == 0 and "geneval2" in manifest["config"]
    assert str(folder_of(layout) / "images.npy") in manifest["inputs"]


def test_a_killed_grading_goes_on_with_the_rest_and_ends_the_same(world, monkeypatch):
    config, layout, _ = world
    name = "hermesflow.evaluation.graders.answer_probability.TransformersAnswerProbability.probability"
    check_killed(config, layout, "geneval2", count_calls(monkeypatch, name), 6, 10)


def test_exported_images_are_named_by_prompt(world, tmp_path):
    _, layout, _ = world
    assert export(world, "geneval2", tmp_path) == 0
    paths = json.loads((tmp_path / "image_paths.json").read_text())
    assert len(paths) == len(CATS)
    for number, row in enumerate(CATS):
        with Image.open(paths[row["prompt"]]) as image:  # the first of two
            assert np.array_equal(np.asarray(image), images_of(layout)[2 * number])


def test_a_benchmark_without_files_of_its_own_names_those_with_them(world, tmp_path, capsys):
    assert export(world, "coco", tmp_path / "coco") == 1
    assert "--benchmark coco: images are exported for geneval and geneval2" in capsys.readouterr().err


def test_rows_are_in_the_order_of_the_original_s_scores(world):
    """So that docs/geneval2.md can set them side by side: by prompt, then by question."""
    config, layout, _ = world
    ours = pd.read_parquet(folder_of(layout) / "rows.parquet").query("image == 0")
    prompts = read_prompts(Path(config.benchmarks.geneval2.prompts))
    expected = [(number, one.text) for number, prompt in enumerate(prompts) for one in prompt.questions]
    assert list(zip(ours["prompt"], ours["question"], strict=True)) == expected


def test_the_table_of_a_graded_run(world):
    """GM of an image's probabilities p: (prod p) ** (1 / n); mean over two images of each of two prompts, times 100."""
    config, layout, _ = world
    config = replace(
        config, benchmarks=Benchmarks(untried=benchmark_world.UNTRIED, geneval2=config.benchmarks.geneval2)
    )
    own = layout.checkpoint(0, "base") / "evaluation"
    sides = [("gap/self/understanding", "gap", "a", 1.0, 1.0), ("gap/self/generation", "gap", "a", 0.0, 1.0)]
    write_table(own / "units.parquet", pd.DataFrame(sides, columns=list(UNIT_COLUMNS)))
    write_weights(own / "features.safetensors", {name: torch.zeros(0, 1) for name in ("generated", "real")})
    folders = {"base": {0: benchmark_folders(config, layout, 0, "base")}}
    summary = summarise({"base": {0: own}}, folders, resamples=config.evaluation.bootstrap, confidence=0.95)
    *_, table = all_tables(summary, config, PAPER_TABLES, benchmark_lines(folders))
    assert table.name == "table_geneval2"
    rows = pd.read_parquet(folder_of(layout) / "rows.parquet")
    chances = [list(own) for _, own in rows.groupby(["prompt", "image"])["probability"]]
    assert [len(p) for p in chances] == [3, 3, 2, 2]
    means = [np.prod(p) ** (1 / len(p)) for p in chances]
    row = table.values.set_index("checkpoint").loc["base"]
    assert row["gm"] == pytest.approx(100 * sum(means) / 4, abs=1e-5)
    assert row["atomicity_2"] == pytest.approx(100 * sum(means[2:]) / 2, abs=1e-5)
    counts = rows[rows["skill"] == "count"]["probability"]
    assert len(counts) == 4 and row["count"] == pytest.approx(100 * sum(counts) / 4, abs=1e-5)
    order = ["Soft-TIFA GM", "Change of GM", "Soft-TIFA AM", "Object", "Attribute", "Count", "2 parts", "3 parts"]
    assert list(table.cells) == ["Checkpoint", *order]  # no question is about a position or a verb
    assert table.cells.loc[0, "Soft-TIFA GM"].startswith(f"{row['gm']:.1f} [")
    (line,) = (note for note in table.notes if note.startswith("geneval2: "))
    assert f"by judge {config.benchmarks.geneval2.judge}; 2 items; run seeds 0" in line
    assert "GenEval 2, 2 prompts x 2 images" in line and "licence of its data CC BY-NC 4.0" in line


@pytest.mark.parametrize("metrics", [real_metrics_of, own_metrics_of])
def test_there_is_no_table_where_it_was_not_measured(metrics):
    config = replace(showo(), benchmarks=replace(showo().benchmarks, geneval2=SECTION))
    for one in (config, showo()):
        tables = all_tables(real_summary(metrics), one, PAPER_TABLES)
        assert "table_geneval2" not in [table.name for table in tables]


def test_the_table_has_every_checkpoint_its_change_and_parts_in_order():
    def metrics(understanding: float, generation: float) -> dict[str, float]:
        names = ("gm", "am", "skill/verb", "skill/object", "atomicity/10", "atomicity/3")
        return {**own_metrics_of(understanding, generation), **{f"geneval2/{name}": generation for name in names}}

    config = replace(showo(), benchmarks=Benchmarks(geneval2=SECTION))
    *_, table = all_tables(real_summary(metrics), config, PAPER_TABLES, {"geneval2": "geneval2: by x@1."})
    assert table.name == "table_geneval2" and table.notes[-1] == "geneval2: by x@1."
    cells = table.cells.set_index("Checkpoint")
    assert list(cells.index) == ["base", "pair-1", "pair-2", "pair-3", "und-1", "gen-1"]
    assert list(cells)[2:] == ["Soft-TIFA AM", "Object", "Verb", "3 parts", "10 parts"]
    assert cells.loc["pair-3", "Soft-TIFA GM"] == "50.0 [48.0, 52.0]"
    assert cells.loc["pair-3", "Change of GM"] == "+7.0 [+5.0, +9.0]"  # 100 x (0.50 - 0.43)
    assert cells.loc["base", "Change of GM"] == EMPTY


def test_the_report_writes_its_table_beside_the_paper_s(tmp_path):
    config = config_of()
    config = replace(config, benchmarks=replace(config.benchmarks, geneval2=SECTION))
    layout = make_results(tmp_path / "results" / "smoke", config)
    for name, soft in {"base": [0.2, 0.4], "pair-1": [0.3, 0.7]}.items():
        write_own(layout.checkpoint(0, name) / "evaluation", config)
        write_benchmarks(layout, name)
        units = units_of("geneval2", {f"geneval2/{m}": soft for m in ("gm", "am", "atomicity/3", "skill/count")})
        write_benchmark(layout.benchmark(0, name, "geneval2"), units, {}, licence="CC BY-NC 4.0")
    names = [folder.name for folder in benchmark_folders(config, layout, 0, "base")]
    assert names == ["geneval", "coco", "gap", "geneval2", "gqa"]
    report.run(config, layout)
    soft = cells(layout, "table_geneval2").set_index("checkpoint")
    assert soft.loc["pair-1", ["gm", "gm_delta"]].tolist() == pytest.approx([50, 20])  # 0.5; 0.3 before
    text = (layout.report / "tables" / "table_geneval2.md").read_text()
    assert "geneval2: as it is; 2 items; run seeds 0; licence CC BY-NC 4.0." in text
    assert (layout.report / "tables" / "table_geneval2.tex").is_file()


def test_the_example_of_the_config_holds_without_its_comment_marks(tmp_path):
    lines = SHOWO.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  # geneval2:"))
    end = next(i for i, line in enumerate(lines[start:], start) if not line.startswith("  # "))
    lines[start:end] = [line.replace("  # ", "  ", 1) for line in lines[start:end]]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    config = load_config(tmp_path / "mine.yaml")
    assert config.benchmarks.image_benchmarks == (*load_config(SHOWO).benchmarks.image_benchmarks, "geneval2")
    assert config.benchmarks.geneval2.images == 1
    assert sources_of(config)["benchmarks.geneval2.judge"].repo == "Qwen/Qwen3-VL-8B-Instruct"


def test_a_section_without_a_judge_is_named(tmp_path):
    plain = yaml.safe_load(SHOWO.read_text())
    plain["benchmarks"]["geneval2"] = {"prompts": "p.jsonl"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match=r"`benchmarks\.geneval2\.judge`"):
        load_config(tmp_path / "mine.yaml")


def test_it_may_stand_beside_the_micro_world_s_own_evaluation():
    smoke = load_config(SHOWO.with_name("smoke.yaml"))
    check_benchmarks(replace(smoke, benchmarks=Benchmarks(geneval2=SECTION)), "smoke.yaml")
    both = Benchmarks(geneval2=SECTION, gap=showo().benchmarks.gap)
    with pytest.raises(ConfigError, match=r"benchmarks\.gap: with data\.source microworld"):
        check_benchmarks(replace(smoke, benchmarks=both), "smoke.yaml")


def test_what_it_costs_by_hand():
    """800 prompts, one image of each unless the section says otherwise, 8 questions about it, a token each.

    An image of 512 pixels is 16 x 16 tokens; two FLOPs a parameter and token. The report has a table more, in three
    forms.
    """
    judge = Source(repo="Qwen/Qwen3-VL-8B-Instruct", files={"config.json": None})
    config = replace(showo(), benchmarks=replace(showo().benchmarks, geneval2=replace(SECTION, judge=judge)))
    assert drawings(config)["geneval2"].total == 800
    flops = total(grading(config, "geneval2", Lengths.of(config)).passes, "flops")
    assert flops == pytest.approx(800 * 8 * 2 * 8.767e9 * (256 + 128))
    assert disk.files_of(config, "report", 1) == disk.files_of(showo(), "report", 1) + 3
