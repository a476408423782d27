"""A new Show-o as a config asks for it, with random weights or with none."""

from __future__ import annotations

import torch

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Source
from hermesflow.core import hub
from hermesflow.models.showo import prompting
from hermesflow.models.showo.model import Shape, ShowO

MICROWORLD = "microworld"


def new_model(config: Config, *, seed: int) -> ShowO:
    """A model with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(config).eval()


def meta_model(config: Config) -> ShowO:
    """A model without weights: names and shapes alone, in no memory."""
    with torch.device("meta"):
        return _build(config)


def text_tokenizer(source: str | Source) -> prompting.TextTokenizer:
    """The text tokenizer a config names.

    Raises:
        FetchError: a source cannot be had.
        ArtifactError: its folder holds no readable tokenizer.
    """
    if source == MICROWORLD:
        from hermesflow.data.microworld.world import vocabulary  # the one tokenizer that comes with its world

        return prompting.word_tokenizer(vocabulary())
    return prompting.pretrained_tokenizer(hub.fetch(source) if isinstance(source, Source) else source)


def _build(config: Config) -> ShowO:
    settings = config.language_model
    shape = Shape.of(settings, num_image_tokens=config.num_image_tokens, codebook_size=config.codebook_size)
    return ShowO(
        shape,
        text_tokenizer(settings.text_tokenizer),
        caption_prompt=settings.caption_prompt,
        question_template=settings.question_template,
    )
