import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hermesflow.core.errors import ConfigError, DataError
from hermesflow.evaluation.benchmarks.dpg import (
    CSV_COLUMNS,
    Question,
    answers_of,
    credited,
    dpg_units,
    grade,
    is_yes,
    parse_prompts,
    read_prompts,
)
from hermesflow.evaluation.bootstrap import point_values
from hermesflow.evaluation.evaluated import Evaluated
from hermesflow.evaluation.graders.vqa_judge import TransformersVqa, vqa_judge
from tests.support.benchmark_models import save_blip, save_clip, save_qwen3_vl, save_vilt

CASES = Path(__file__).parent / "cases"
CAT, PHOTO = ("partiprompts1", "A red cat, asleep.", "cat"), ("posescript7", "A photo", "")
ROWS = [
    (*CAT, "1", "0", "entity", "whole", "entity - whole (cat)", "Is there a cat?"),
    (*CAT, "2", "1", "attribute", "color", "attribute - color (cat, red)", "Is the cat red?"),
    (*CAT, "3", "1, 2", "entity", "state", "entity - state (cat, asleep)", "Is the cat asleep?"),
    (*PHOTO, "1", "0", "global", "", "global - (photo)", "Is this a photo?"),
]


def write(path, rows=ROWS, columns=CSV_COLUMNS):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


class Says:
    """A judge that gives prepared answers, image by image."""

    def __init__(self, *answers):
        self._answers = iter(answers)

    def answer(self, image, questions):
        return next(self._answers)


def tree(*parents):
    return [Question(i, "?", some, "entity", "") for i, some in enumerate(parents, start=1)]


def image():
    return Image.new("RGB", (8, 8))


def test_the_file_is_read_from_its_first_row(tmp_path):
    prompts = read_prompts(write(tmp_path / "dpg_bench.csv"))
    assert [one.id for one in prompts] == ["partiprompts1", "posescript7"]
    assert prompts[0].text == "A red cat, asleep."
    assert [q.text for q in prompts[0].questions] == ["Is there a cat?", "Is the cat red?", "Is the cat asleep?"]
    assert [q.parents for q in prompts[0].questions] == [(), (1,), (1, 2)]
    assert prompts[1].questions[0] == Question(1, "Is this a photo?", (), "global", "")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (3, "one", "line 3, prompt partiprompts1"),
        (3, "1", "question 1 is there twice"),
        (4, "1;2", "line 3, prompt partiprompts1"),
        (4, "9", "question 2 depends on"),
        (1, "Another text", "another text than before"),
        (8, "", "line 3, prompt partiprompts1"),
    ],
)
def test_a_broken_row_is_named(tmp_path, field, value, said):
    rows = [list(row) for row in ROWS]
    rows[1][field] = value
    with pytest.raises(DataError, match=said):
        read_prompts(write(tmp_path / "dpg_bench.csv", rows))


def test_a_comma_outside_of_quotes_is_named(tmp_path):
    path = write(tmp_path / "dpg_bench.csv")
    path.write_text(path.read_text().replace('"entity - state (cat, asleep)"', "entity - state (cat, asleep)"))
    with pytest.raises(DataError, match=r"dpg_bench\.csv: line 4, .* in quotes"):
        read_prompts(path)


def test_a_file_of_another_form_is_refused(tmp_path):
    with pytest.raises(DataError, match="dependency"):
        read_prompts(write(tmp_path / "a.csv", columns=[*CSV_COLUMNS[:4], "parents", *CSV_COLUMNS[5:]]))
    with pytest.raises(DataError, match="no questions"):
        read_prompts(write(tmp_path / "b.csv", []))
    with pytest.raises(DataError, match=r"missing\.csv"):
        read_prompts(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("parents", "yes", "counts"),
    [
        ([(), (1,), (2,), ()], [False, True, True, True], [False, False, False, True]),
        ([(), (), (1, 2)], [True, False, True], [True, False, False]),  # a child of two needs both
        ([(), (1,)], [True, False], [True, False]),
        ([(3,), (1,), ()], [True, True, False], [False, False, False]),  # 1 above 3, which it depends on; 2 below 1
        ([(2,), (3,), ()], [True, True, False], [True, False, False]),  # 2 was answered "yes" when 1 is looked at
        ([(2,), (3,), ()], [True, False, True], [False, False, True]),
        ([(2,), (1,)], [True, True], [True, True]),  # each other's parent
        ([(2,), (1,)], [True, False], [False, False]),
        ([(1,), ()], [True, True], [True, True]),  # its own parent
    ],
)
def test_dependency_rule_by_hand(parents, yes, counts):
    said = dict(enumerate(yes, start=1))
    assert credited(tree(*parents), said) == dict(enumerate(counts, start=1))


def test_a_child_above_its_parent_is_judged_as_the_original_does(tmp_path):
    (prompt,) = read_prompts(CASES / "dpg-child-above-parent" / "x.csv")
    table = grade(prompt, [image()], Says(["yes", "yes", "no"]))
    assert table["credited"].mean() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a", r"line 3, prompt p: dependency '1, right' is not whole numbers"),
        ("b", r"line 2, prompt p: question 2 depends on 1, which its prompt does not have"),
        ("c", r"line 3, prompt p: question 1 is there twice, first in line 2"),
        ("d", r"line 2, prompt p: question_natural_language is empty"),
    ],
)
def test_odd_rows_are_named_with_their_line(name, said):
    path = CASES / "dpg-odd-rows" / f"{name}.csv"
    with pytest.raises(DataError, match=rf"{name}\.csv: {said}.*leave_out_faulty"):
        read_prompts(path)
    with pytest.raises(DataError, match="not all prompts can be left out"):
        read_prompts(path, leave_out_faulty=True)


def odd_file(path):
    """Two right prompts below four with a fault each: p0 to p3, their rows mixed."""
    rows = list(ROWS)
    for number, name in enumerate("abcd"):
        with (CASES / "dpg-odd-rows" / f"{name}.csv").open(newline="") as file:
            rows[number:number] = [(f"p{number}", *row[1:]) for row in list(csv.reader(file))[1:]]
    return write(path, rows)


def test_all_faults_of_a_file_are_in_one_message(tmp_path):
    with pytest.raises(DataError) as caught:
        read_prompts(odd_file(tmp_path / "odd.csv"))
    told = str(caught.value).partition(". Correct")[0].removeprefix(f"{tmp_path / 'odd.csv'}: ").split("; ")
    wanted = ["line 3, prompt p1", "line 5, prompt p3", "line 6, prompt p2", "line 7, prompt p0"]
    assert [one.partition(":")[0] for one in told] == wanted


def test_prompts_with_a_fault_are_left_out_on_request_and_counted(tmp_path):
    path = odd_file(tmp_path / "odd.csv")
    assert read_prompts(path, leave_out_faulty=True) == read_prompts(write(tmp_path / "right.csv"))
    prompts, faults, rows = parse_prompts(path)
    assert len(faults) == 4 and {one.prompt for one in faults} == {"p0", "p1", "p2", "p3"}
    assert sum(rows.values()) == sum(len(one.questions) for one in prompts) + sum(rows[one.prompt] for one in faults)


def test_of_many_faults_the_first_hundred_are_named_and_the_others_counted(tmp_path):
    rows = [(*CAT, str(number), "x", "entity", "", "", "?") for number in range(120)]
    with pytest.raises(DataError, match=r"line 101, .*; and 20 more\. Correct"):
        read_prompts(write(tmp_path / "many.csv", rows))


@pytest.mark.parametrize(
    ("answer", "yes"), [("yes", True), (" Yes. ", True), ("no", False), ("yes it is", False), ("", False)]
)
def test_reading_of_answers(answer, yes):
    assert is_yes(answer) is yes


def test_answers_that_are_neither_yes_nor_no_are_counted(tmp_path):
    cat, _ = read_prompts(write(tmp_path / "dpg_bench.csv"))
    table = grade(cat, [image()] * 2, Says(["yes", "No.", "cat"], ["", "Yes", "yes yes"]))
    assert answers_of(table) == {"yes": 2, "no": 1, "neither": 3}


def test_scores_by_hand(tmp_path):
    cat, photo = read_prompts(write(tmp_path / "dpg_bench.csv"))
    judge = Says(["yes", "yes", "yes"], ["yes", "yes", "no"], ["no", "yes", "yes"], ["yes", "no", "yes"])
    table = pd.concat(
        [grade(cat, [image()] * 4, judge), grade(photo, [image()] * 4, Says(["no"], ["yes"], ["no"], ["no"]))]
    )
    values = point_values(Evaluated(dpg_units(table), np.zeros((0, 1)), np.zeros((0, 1))))
    # images of the cat: 3/3, 2/3, 0/3 (all depend on the cat), 1/3 -> 1/2; of the photo: 1/4
    assert values["dpg"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    # categories are "yes" answers over all images, without the rule: there 3 of 4, asleep 3 of 4
    assert values["dpg/entity"] == pytest.approx(6 / 8)
    assert values["dpg/attribute"] == pytest.approx(3 / 4)
    assert values["dpg/global"] == pytest.approx(1 / 4)


def test_prompts_weigh_the_same_however_many_questions_they_have(tmp_path):
    cat, photo = read_prompts(write(tmp_path / "dpg_bench.csv"))
    table = pd.concat([grade(cat, [image()], Says(["yes"] * 3)), grade(photo, [image()], Says(["no"]))])
    units = dpg_units(table)
    assert list(units[units["metric"] == "dpg"]["numerator"]) == [1.0, 0.0]


def test_too_few_answers_or_no_image_stop_the_grading(tmp_path):
    cat, _ = read_prompts(write(tmp_path / "dpg_bench.csv"))
    with pytest.raises(DataError, match="partiprompts1"):
        grade(cat, [image()], Says(["yes", "yes"]))
    with pytest.raises(DataError, match="partiprompts1"):
        grade(cat, [], Says())


QUESTIONS = ["is the cat red ?", "is there a red cat ?", "cat ?", "is a cat there ?", "is the cat there ?"]


@pytest.mark.parametrize("save", [save_blip, save_vilt])
def test_answers_of_a_real_model_do_not_depend_on_the_other_questions(tmp_path, save):
    judge = TransformersVqa(str(save(tmp_path)))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    together = judge.answer(picture, QUESTIONS)
    assert together == [judge.answer(picture, [question])[0] for question in QUESTIONS]


def test_questions_longer_than_the_judge_takes_are_told(tmp_path):
    """The tiny ViLT takes 40 tokens, two of them around the question, as the released one does."""
    judge = TransformersVqa(str(save_vilt(tmp_path)))
    assert judge.is_cut(["cat " * 38, "cat " * 39, "cat ?"]) == [False, True, False]


def test_a_choosing_model_gives_the_likeliest_of_its_answers(tmp_path):
    judge = TransformersVqa(str(save_vilt(tmp_path)))
    logits = judge._model(**judge._processor(image(), "is the cat red ?", return_tensors="pt")).logits[0]
    assert judge.answer(image(), ["is the cat red ?"]) == [["yes", "no", "cat"][int(logits.argmax())]]


def test_a_chat_model_is_asked_to_answer_yes_or_no(tmp_path):
    judge = vqa_judge(str(save_qwen3_vl(tmp_path)))
    asked = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>cat ? Answer yes or no.<|im_end|>\n"
    processor, model = judge._model.processor, judge._model.model
    batch = processor(text=[f"{asked}<|im_start|>assistant\n"], images=[image()], return_tensors="pt")
    written = model.generate(**batch, do_sample=False, max_new_tokens=10)[0, batch["input_ids"].shape[1] :]
    assert judge.answer(image(), ["cat ?"]) == [processor.decode(written, skip_special_tokens=True).strip()]
    assert judge.answer(image(), QUESTIONS) == [judge.answer(image(), [question])[0] for question in QUESTIONS]


@pytest.mark.parametrize("save", [save_blip, save_vilt])
def test_a_model_of_visual_questions_is_asked_as_such(tmp_path, save):
    assert isinstance(vqa_judge(str(save(tmp_path))), TransformersVqa)


def test_a_model_of_neither_kind_is_no_judge(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}: cannot be read as the VQA judge"):
        vqa_judge(str(save_clip(tmp_path)))


def test_from_files_to_the_table_cell_with_a_real_judge(tmp_path):
    prompts = read_prompts(write(tmp_path / "dpg_bench.csv"))
    images = [Image.new("RGB", (32, 32), "red")] * 4
    judge = TransformersVqa(str(save_vilt(tmp_path / "vilt")))
    table = pd.concat([grade(prompt, images, judge) for prompt in prompts])
    assert len(table) == 4 * 4 and set(table["answer"]) <= {"yes", "no", "cat"}
    values = point_values(Evaluated(dpg_units(table), np.zeros((0, 1)), np.zeros((0, 1))))
    by_hand = table.groupby(["id", "image"])["credited"].mean().groupby("id").mean().mean()
    assert values["dpg"] == pytest.approx(by_hand)


@pytest.mark.parametrize("column", [1, 5, 8])
@pytest.mark.parametrize("leave_out", [False, True])
def test_a_quote_that_is_not_closed_does_not_swallow_the_rows_below(tmp_path, column, leave_out):
    """They were part of a question, or gone with a prompt that was left out, and counted nowhere."""
    lines = [",".join(CSV_COLUMNS)] + [f"p{n},t,,1,0,entity,whole,x,Is it?" for n in range(4)]
    cells = lines[2].split(",")
    cells[column] = f'"{cells[column]}'
    lines[2] = ",".join(cells)
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"a\.csv: a quote is not closed in the row that ends in line 5"):
        read_prompts(tmp_path / "a.csv", leave_out_faulty=leave_out)


def test_logits_that_are_not_finite_are_no_answer(tmp_path, monkeypatch):
    """The first of the answers was."""
    judge = TransformersVqa(str(save_vilt(tmp_path)))
    judge._model.classifier[-1].bias.data[1] = float("nan")
    with pytest.raises(ConfigError, match="the VQA judge returned values that are infinite or NaN"):
        judge.answer(image(), ["is the cat red ?"])
