"""lmms-eval's scorers, which make the figures, against expectations worked out by hand."""

import math
from pathlib import Path

import pytest
from lmms_eval.api.metrics import exact_match_hf_evaluate
from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
from lmms_eval.tasks.mme import utils as mme
from lmms_eval.tasks.mmmu import utils as mmmu
from lmms_eval.tasks.pope import utils as pope
from lmms_eval.tasks.vqav2 import utils as vqav2

from hermesflow.evaluation.benchmarks import flickr30k
from hermesflow.evaluation.benchmarks import mme as our_mme
from hermesflow.evaluation.benchmarks import mmmu as our_mmmu
from hermesflow.evaluation.benchmarks import pope as our_pope
from hermesflow.evaluation.lmms import results
from hermesflow.evaluation.lmms.run import Run
from hermesflow.evaluation.worlds.understanding import units_table

pytestmark = pytest.mark.lmms


def graded(pairs):
    """(truth, answer) as POPE's samples."""
    return [
        pope.pope_process_results({"question_id": str(i), "answer": truth}, [our_pope.read_answer(said)])[
            "pope_accuracy"
        ]
        for i, (truth, said) in enumerate(pairs)
    ]


# 2 true and 1 false positive, 3 true and 2 false negatives
POPE = [
    ("yes", "Yes."), ("yes", "yes, there is"), ("no", "Yes"),
    ("no", "No."), ("no", "no"), ("no", "There is no dog."), ("yes", "No"), ("yes", "not here"),
]  # fmt: skip


def test_pope():
    own = graded(POPE)
    assert pope.pope_aggregate_accuracy(own) == pytest.approx(5 / 8)
    assert pope.pope_aggregate_precision(own) == pytest.approx(2 / 3)
    assert pope.pope_aggregate_recall(own) == pytest.approx(2 / 4)
    assert pope.pope_aggregate_f1_score(own) == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


def test_pope_rows_are_the_same_figures():
    rows = [row for one in graded(POPE) for row in our_pope._rows("random", "image", one)]
    found = results.figures_of(units_table(results._by_image(rows)))
    expected = {"accuracy": 5 / 8, "precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "yes_ratio": 3 / 8}
    assert found == pytest.approx({f"pope/random/{name}": value for name, value in expected.items()})


def test_popes_yes_ratio_is_of_the_truth_and_so_not_taken():
    assert pope.pope_aggregate_yes_ratio(graded(POPE)) == 4 / 8  # the answers have 3 of 8


def test_pope_itself_refuses_yes_with_a_full_stop():
    found = pope.pope_process_results({"question_id": "1", "answer": "yes"}, ["Yes."])
    assert found["pope_accuracy"]["score"] == 0


@pytest.mark.parametrize(
    ("said", "read"),
    [("Yes.", "yes"), ("no", "no"), ("Y", "yes"), ("n", "no"), ("Yes, it is", "yes"), ("dog", "other"), ("", "other")],
)
def test_mme_reads_the_beginning(said, read):
    assert mme.parse_pred_ans(said) == read


def mme_samples():
    """existence: one picture of two right, one of one right; OCR: one with both right; code: one with none."""
    answers = [
        ("existence", "1.png", "Yes", "yes."), ("existence", "1.png", "No", "no"),
        ("existence", "2.png", "Yes", "yes"), ("existence", "2.png", "No", "Yes"),
        ("OCR", "1.png", "Yes", "Yes, it is"), ("OCR", "1.png", "No", "N"),
        ("code_reasoning", "1.png", "Yes", "what"), ("code_reasoning", "1.png", "No", "yes"),
    ]  # fmt: skip
    return [
        mme.mme_process_results({"answer": truth, "category": category, "question_id": f"{category}/{name}"}, [said])
        for category, name, truth, said in answers
    ]


def test_mme_adds_accuracy_and_accuracy_plus_of_each_category():
    samples = mme_samples()
    perception = [s["mme_perception_score"] for s in samples if "mme_perception_score" in s]
    cognition = [s["mme_cognition_score"] for s in samples if "mme_cognition_score" in s]
    # existence: accuracy (100 + 50) / 2, accuracy+ (100 + 0) / 2; OCR: 100 + 100
    assert mme.mme_aggregate_results(perception) == pytest.approx(75 + 50 + 200)
    assert mme.mme_aggregate_results(cognition) == 0


def test_mme_rows_keep_the_halves_apart():
    samples = [{**sample, "doc_id": i} for i, sample in enumerate(mme_samples())]
    run = Run(Path(), {}, {}, {("mme", i): "a" if i < 2 else "b" for i in range(len(samples))})
    rows = our_mme.rows(run, "mme", samples)
    found = results.figures_of(units_table(results._by_image(rows)))
    assert found["mme/existence/accuracy"] == 75
    assert found["mme/existence/accuracy_plus"] == 50
    assert found["mme/OCR/accuracy"] == found["mme/OCR/accuracy_plus"] == 100
    assert found["mme/code_reasoning/accuracy"] == 0


def vqa(said, answers):
    rows = [{"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(answers, start=1)]
    return vqav2.vqav2_process_results_val({"question_id": 1, "answers": rows}, [said])["exact_match"]


@pytest.mark.parametrize(
    ("agree", "accuracy"),
    [
        (0, 0),
        (1, 9 * (1 / 3) / 10),  # left out once: nobody agrees then
        (2, (2 * (1 / 3) + 8 * (2 / 3)) / 10),
        (3, (3 * (2 / 3) + 7) / 10),
        (4, 1),
        (10, 1),
    ],
)
def test_vqav2_leaves_each_annotator_out_once(agree, accuracy):
    assert vqa("red", ["red"] * agree + ["blue"] * (10 - agree)) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("said", "truth"),
    [
        ("Yes.", "yes"),
        ("The Dog", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("red, blue", "red blue"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
    ],
)
def test_vqav2_compares_normalised_answers(said, truth):
    assert vqa(said, [truth] * 10) == 1


def test_vqav2_normalisation_by_hand():
    process = EvalAIAnswerProcessor()
    assert process.process_digit_article("A cat and the ten dogs") == "cat and 10 dogs"
    assert process.process_punctuation("t-shirt") == "t shirt"  # no blank beside the dash
    assert process.process_punctuation("well - done") == "well  done"


@pytest.mark.parametrize(("said", "right"), [("Yes.", 1), ("yes", 1), ("YES!", 1), ("yes it is", 0), ("", 0)])
def test_gqa_matches_without_case_and_punctuation(said, right):
    found = exact_match_hf_evaluate([said], ["yes"], ignore_case=True, ignore_punctuation=True)
    assert found["exact_match"] == right


OPTIONS = ["a cat", "a dog", "the red house on a hill"]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("The answer is B", "B"),
        ("A or (C)", "C"),  # a bracket goes first
        ("(A) no, (C)", "C"),  # then the last one
        ("I believe that it shows a dog here", "B"),  # by its text, in more than five words
    ],
)
def test_mmmu_reads_multiple_choice(said, read):
    letters, choices = mmmu.get_multi_choice_info(OPTIONS)
    assert mmmu.parse_multi_choice_response(said, choices, letters) == read


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("3.14159", "3.14", True),  # two decimals
        ("The answer is 1,200.", "1200", True),
        ("x = 7", "7", True),
        ("It is so green", "Green", True),
        ("it is 12", "2", False),  # numbers are compared as numbers
        ("seven", "7", False),
        ("crab", "b", False),  # a single letter wants a blank beside it
    ],
)
def test_mmmu_reads_open_answers(said, truth, right):
    assert mmmu.eval_open(truth, mmmu.parse_open_response(said)) is right


def test_mmmu_counts_questions_over_all_subjects():
    documents = [
        ("validation_Art_1", "multiple-choice", "B", "B"),
        ("validation_Art_2", "multiple-choice", "A", "B"),
        ("validation_Math_1", "open", "2", "2.0"),
    ]
    samples = [
        mmmu.mmmu_process_results({"id": key, "question_type": kind, "options": str(OPTIONS), "answer": truth}, [said])[
            "mmmu_acc"
        ]
        for key, kind, truth, said in documents
    ]
    assert mmmu.mmmu_aggregate_results(samples) == pytest.approx(2 / 3, abs=1e-5)
    assert our_mmmu.mmmu_right(samples) == {key: key != "validation_Art_2" for key, *_ in documents}


def test_cider_by_hand():
    samples = [
        {"image_id": 1, "pred": "Red circle.", "answer": ["red circle"]},
        {"image_id": 2, "pred": "blue circle", "answer": ["blue square"]},
        {"image_id": 3, "pred": "cyan triangle", "answer": ["green cross"]},
    ]
    scores = flickr30k.cider_scores(samples)
    # two words have 1- and 2-grams alone: a copy scores 10 * (1 + 1 + 0 + 0) / 4; case and full stop do not count
    assert scores[1] == pytest.approx(5)
    # "blue" of 2 words of equal weight agrees ("circle", in no reference of its own, weighs ln 3 too)
    assert scores[2] == pytest.approx(10 / 4 * 1 / 2)
    assert scores[3] == 0


def test_a_carriage_return_would_give_every_later_picture_another_caption():
    """Which is why the plugin puts captions on one line: the second and third are copies of their references."""
    said = ["red\rcircle", "blue square", "green cross"]
    truth = ["red circle", "blue square", "green cross"]

    def scores(captions):
        rows = [{"image_id": i, "pred": a, "answer": [b]} for i, (a, b) in enumerate(zip(captions, truth, strict=True))]
        return list(flickr30k.cider_scores(rows).values())

    assert scores(said)[1:] != pytest.approx([5, 5])
    assert scores([flickr30k.read_answer(text) for text in said]) == pytest.approx([5, 5, 5])


def test_cider_takes_the_mean_over_references():
    samples = [
        {"image_id": 1, "pred": "red circle", "answer": ["red circle", "green cross"]},
        {"image_id": 2, "pred": "blue", "answer": ["cyan square"]},
    ]
    assert flickr30k.cider_scores(samples)[1] == pytest.approx((5 + 0) / 2)


def test_cider_punishes_another_length():
    samples = [
        {"image_id": 1, "pred": "red circle red", "answer": ["red circle"]},
        {"image_id": 2, "pred": "blue", "answer": ["cyan square"]},
    ]
    # words: (2, 1) against (1, 1), clipped to (1, 1): 2 / (sqrt 5 sqrt 2); pairs: one of two, 1 / sqrt 2
    cosines = 2 / math.sqrt(10) + 1 / math.sqrt(2)
    assert flickr30k.cider_scores(samples)[1] == pytest.approx(10 / 4 * cosines * math.exp(-1 / (2 * 6**2)))
