from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hermesflow.config.load import load_config
from hermesflow.models import backbone
from hermesflow.training.pretraining import Example, batches, text_lengths

SMOKE = load_config(Path(__file__).parents[2] / "config" / "smoke.yaml")


@pytest.fixture(params=["showo", "tests.support.tiny_backbone"])
def model(request):
    return backbone.new_model(
        replace(SMOKE, language_model=replace(SMOKE.language_model, family=request.param)), seed=3
    )


def test_scored_lengths_are_what_there_is_room_for(model, monkeypatch):
    """A room of 0 was taken for no limit, and nobody counted the text that is lost."""
    monkeypatch.setattr(model, "room", {"red": 0, "blue": 2, "green": None}.get)
    prompts, texts = ["red", "blue", "green", "blue"], ["a red circle"] * 3 + ["circle"]
    assert model.scored_lengths(prompts, texts) == [0, 2, 4, 2]
    monkeypatch.setattr(model, "caption_prompt", "green")
    monkeypatch.setattr(model, "question_template", "{}")
    example = Example("a red circle", tuple(zip(prompts, texts, strict=True)))
    expected = dict(zip(example.questions, [0, 2, 4, 2], strict=True))
    assert text_lengths([example, example], model) == (expected, 2)


def test_a_prompt_that_is_too_long_leaves_no_room():
    model = backbone.new_model(SMOKE, seed=3)
    longest = SMOKE.language_model.max_text_tokens
    assert [model.room(" ".join(["red"] * length)) for length in (0, longest - 2, longest - 1, longest + 9)] == [
        longest - 1,
        1,
        0,
        0,
    ]


def test_batches_hold_the_scored_lengths_of_their_texts(model):
    examples = [Example("a red circle", (("Is it red ?", "yes"),)), Example("two " * 40, (("What is it ?", "two"),))]
    images = torch.zeros(2, *model.generated.shape, dtype=torch.int64)
    lengths, _ = text_lengths(examples, model)
    settings = replace(SMOKE.base_training, text_first=0.0)
    stream = batches(examples, images, images, model, lengths, settings, torch.Generator().manual_seed(0))
    for batch, _ in zip(stream, range(3), strict=False):
        assert batch.mmu_lengths == model.scored_lengths(batch.mmu_prompts, batch.mmu_completions)
