import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark_models import save_qwen3_vl
from hermesflow.core.errors import DataError
from hermesflow.evaluation.benchmarks import geneval2
from hermesflow.evaluation.benchmarks.geneval2 import (
    LICENCE,
    Question,
    geneval2_units,
    grade,
    read_prompts,
    read_scores,
    soft_tifa,
)
from hermesflow.evaluation.bootstrap import estimate, point_values
from hermesflow.evaluation.evaluated import UNIT_COLUMNS, Evaluated
from hermesflow.evaluation.graders.answer_probability import TransformersAnswerProbability

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
        ({"skills": ["count"]}, "2 questions, but 1 skills"),
        ({"skills": ["count", "colour"]}, "skill 'colour' is none of object"),
        ({"vqa_list": [["How many foxes?", "many"], ["Any?", "Yes"]]}, "'many', none of one, two"),
        ({"vqa_list": [["How many foxes?", "ten"], ["Any?", "No"]]}, "'No', none of Yes"),
        ({"vqa_list": [["How many foxes?"], ["Any?", "Yes"]]}, "ValueError"),
        ({"vqa_list": [], "skills": []}, "`vqa_list` is empty"),
        ({"prompt": ""}, "is empty"),
        ({"atom_count": "2"}, "atom_count '2'"),
        ({"atom_count": 0}, "atom_count 0"),
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
        with pytest.raises(DataError, match=r"prompt 1, 'Are there any foxes.*is no probability"):
            grade(1, prompts[1], [image()], Says(0.5, broken))


def test_scores_of_the_released_evaluation_give_its_figures(tmp_path, prompts):
    path = tmp_path / "score_lists.json"
    path.write_text(json.dumps([[0.5, 1.0000001, 1.0, 0.125, 1.0, 1.0], [0.2, 0.8]]))
    assert values(read_scores(path, prompts))["geneval2/gm"] == pytest.approx((2 ** (-2 / 3) + 0.4) / 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[0.5]", "cannot be read"),
        ("[[0.2, 0.8]]", "is not a list of 2 lists"),
        ("[[0.5, 1, 1, 1, 1, 1], [0.2]]", r"prompt 1 \('ten foxes'\): there must be 2 probabilities"),
        ("[[0.5, 1, 1, 1, 1, 1], 0.2]", "there must be 2 probabilities"),
        ("[[0.5, 1, 1, 1, 1, 1], [0.2, null]]", "None is no probability"),
    ],
)
def test_scores_of_other_prompts_are_refused(tmp_path, prompts, text, said):
    path = tmp_path / "score_lists.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"score_lists\.json: .*{said}"):
        read_scores(path, prompts)


def test_from_the_file_to_the_table_cell_with_a_real_model(tmp_path, prompts):
    judge = TransformersAnswerProbability(str(save_qwen3_vl(tmp_path / "qwen")))
    table = pd.concat([grade(number, prompt, [image()], judge) for number, prompt in enumerate(prompts)])
    assert len(table) == 8 and table["probability"].between(0, 1).all() and table["probability"].nunique() > 4
    owls, foxes = (list(own["probability"]) for _, own in table.groupby("prompt"))
    found = values(table)
    assert found["geneval2/am"] == pytest.approx((sum(owls) / 6 + sum(foxes) / 2) / 2)
    assert found["geneval2/gm"] == pytest.approx((np.prod(owls) ** (1 / 6) + np.prod(foxes) ** (1 / 2)) / 2)
