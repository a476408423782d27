"""Language models that write and check questions: any causal and any text-to-text model that transformers reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hermesflow.config.data import QuestionModels
from hermesflow.config.sections import Source
from hermesflow.core import hub
from hermesflow.core.errors import ConfigError
from hermesflow.core.pretrained import READING, read_model
from hermesflow.data.questions.tifa import json_messages, tifa_prompt

_ANSWER_TOKENS = 30  # as TIFA's checker
_CHECKED_TOGETHER = 32  # prompts per forward pass of the checker


class Generator:
    """A causal model that writes questions about captions."""

    def __init__(self, settings: QuestionModels, *, device: str) -> None:
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, settings.dtype)
        self._settings = settings
        self._tokenizer, self._model = _load(
            AutoModelForCausalLM, settings.generator, "generator", dtype=dtype, device=device
        )
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    @torch.inference_mode()
    def write(self, captions: Sequence[str]) -> list[str]:
        """What the model writes about each caption, by beam search; nothing is drawn at random."""
        prompts = [self._prompt(" ".join(caption.split())) for caption in captions]
        special = self._settings.format == "tifa"  # a chat template has its special tokens in the text
        batch = self._tokenizer(prompts, padding=True, add_special_tokens=special, return_tensors="pt")
        written = self._model.generate(
            input_ids=batch["input_ids"].to(self._model.device),
            attention_mask=batch["attention_mask"].to(self._model.device),
            do_sample=False,
            num_beams=self._settings.beams,
            max_new_tokens=self._settings.max_new_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        new = written[:, batch["input_ids"].shape[1] :]
        return list(self._tokenizer.batch_decode(new, skip_special_tokens=True))

    def _prompt(self, caption: str) -> str:
        if self._settings.format == "tifa":
            return tifa_prompt(caption)
        if not self._tokenizer.chat_template:
            raise ConfigError(
                f"data.questions.generator: {_name(self._settings.generator)} has no chat template, so format `json` "
                "cannot ask it. Name an instruct model, or use format `tifa` with TIFA's model."
            )
        messages = json_messages(caption)
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


class Checker:
    """A text-to-text QA model."""

    def __init__(self, settings: QuestionModels, *, device: str) -> None:
        from transformers import AutoModelForSeq2SeqLM

        self._tokenizer, self._model = _load(
            AutoModelForSeq2SeqLM, settings.checker, "checker", dtype=torch.float32, device=device
        )

    @torch.inference_mode()
    def answer(self, prompts: Sequence[str]) -> list[str]:
        """Greedy answers."""
        answers: list[str] = []
        for start in range(0, len(prompts), _CHECKED_TOGETHER):
            chunk = list(prompts[start : start + _CHECKED_TOGETHER])
            batch = self._tokenizer(chunk, padding=True, return_tensors="pt").to(self._model.device)
            written = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                num_beams=1,
                max_new_tokens=_ANSWER_TOKENS,
            )
            answers += self._tokenizer.batch_decode(written, skip_special_tokens=True)
        return [answer.strip() for answer in answers]


def _load(kind: Any, source: str | Source, key: str, *, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """Tokenizer and model of a folder, or of a source that is fetched first.

    Raises:
        ConfigError: it is not pinned, cannot be read, or has no safetensors weights.
        FetchError: a source cannot be had.
    """
    from transformers import AutoTokenizer

    folder = hub.fetch(source) if isinstance(source, Source) else Path(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        loaded = read_model(kind, folder, role=f"data.questions.{key}", dtype=dtype)
    except READING as error:
        raise ConfigError(
            f"data.questions.{key}: {_name(source)} cannot be read: {' '.join(str(error).split())[:400]} It must be a "
            "folder, or repo, revision and files on the hub, with a tokenizer and safetensors weights (docs/data.md)."
        ) from error
    return tokenizer, loaded.to(device).eval()


def _name(source: str | Source) -> str:
    return f"`{(source.folder or source.repo) if isinstance(source, Source) else source}`"
