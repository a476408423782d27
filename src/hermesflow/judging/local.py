"""A judge on this machine: any image-text-to-text model that transformers reads, asked one question at a time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from hermesflow.errors import DataError
from hermesflow.judging.instructions import prompt_of, read_choice
from hermesflow.judging.protocol import Item, Verdict, check_items
from hermesflow.judging.settings import LocalVlm
from hermesflow.progress import Progress
from hermesflow.sections import Source


class LocalJudge:
    """A `Judge`."""

    def __init__(self, settings: LocalVlm, *, device: str) -> None:
        """Load the model.

        Raises:
            ConfigError: it cannot be read, or has no chat template.
            FetchError: a source cannot be had.
        """
        import torch

        from hermesflow.benchmarks.pretrained import ChatModel

        role, dtype = "the judge (benchmarks.gap.judge.model)", getattr(torch, settings.dtype)
        self._settings, self._model = settings, ChatModel(settings.model, role=role, device=device, dtype=dtype)

    @property
    def name(self) -> str:
        """Repository or folder of the model."""
        return _name(self._settings.model)

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, by greedy answers.

        Raises:
            DataError: an item cannot be asked; one whose image is broken is found when its turn comes.
        """
        check_items(items)
        progress = Progress(len(items), f"judge {self.name}", "question")
        verdicts = []
        for item in items:
            text = self._answer(item)
            verdicts.append(Verdict(item.id, *read_choice(text, item.choices), text))
            progress.advance()
        return verdicts

    def _answer(self, item: Item) -> str:
        prompt = prompt_of(item)  # in one message: not every chat template knows a system's
        content: list[dict[str, Any]] = [{"type": "text", "text": f"{prompt.system}\n\n{prompt.user}"}]
        if isinstance(item.evidence, bytes):
            content.insert(0, {"type": "image", "image": _decoded(item)})
        written, before = self._model.generate(content, max_new_tokens=self._settings.max_new_tokens)
        return str(self._model.processor.decode(written[0, before:], skip_special_tokens=True)).strip()


def _decoded(item: Item) -> Any:
    from PIL import Image

    assert isinstance(item.evidence, bytes)
    try:
        with Image.open(io.BytesIO(item.evidence)) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"pair {item.id}: its image cannot be decoded ({type(error).__name__}). Make it anew or remove the pair."
        ) from error


def _name(source: str | Source) -> str:
    return str(source.repo or source.folder) if isinstance(source, Source) else source
