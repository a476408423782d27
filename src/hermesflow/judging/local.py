"""A judge on this machine: any image-text-to-text model that transformers reads, asked one question at a time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from hermesflow.errors import ConfigError, DataError
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
        self._settings = settings
        self._processor, self._model = _load(settings, device=device)

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
        import torch

        prompt = prompt_of(item)  # in one message: not every chat template knows a system's
        content: list[dict[str, Any]] = [{"type": "text", "text": f"{prompt.system}\n\n{prompt.user}"}]
        if isinstance(item.evidence, bytes):
            content.insert(0, {"type": "image", "image": _decoded(item)})
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
        with torch.inference_mode():
            written = self._model.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=self._settings.max_new_tokens
            )
        new = written[0, inputs["input_ids"].shape[1] :]
        return str(self._processor.decode(new, skip_special_tokens=True)).strip()


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


def _load(settings: LocalVlm, *, device: str) -> tuple[Any, Any]:
    import torch

    from hermesflow.benchmarks.pretrained import read_pretrained, read_processor

    source, role = settings.model, "the judge (benchmarks.gap.judge.model)"
    options = {"dtype": getattr(torch, settings.dtype), "use_safetensors": True}
    model = read_pretrained("AutoModelForImageTextToText", source, role=role, **options)
    processor = read_processor(model, source, role=role)
    if not getattr(processor, "chat_template", None):
        raise ConfigError(f"benchmarks.gap.judge.model: {_name(source)} has no chat template. Name an instruct model.")
    return processor, model.to(device).eval()


def _name(source: str | Source) -> str:
    return str(source.repo or source.folder) if isinstance(source, Source) else source
