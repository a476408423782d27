"""Sentence encoders read from disk: texts to unit vectors."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hermesflow.config.sections import Encoder, Scoring, Source
from hermesflow.core import hub
from hermesflow.core.errors import ArtifactError, ConfigError, naming
from hermesflow.core.files import sha256
from hermesflow.core.finite import check_finite
from hermesflow.core.pretrained import read_model
from hermesflow.models.kernels import quicken

WEIGHTS = "model.safetensors"
_ROWS = 128  # texts per forward pass
_TOKENS = 256  # longer texts are cut


class SentenceEncoder:
    """A frozen transformer and how its hidden states become one vector per text."""

    def __init__(self, model: Any, tokenizer: Any, *, pooling: Literal["cls", "mean"]) -> None:
        quicken(model)
        self.model, self.tokenizer, self.pooling = model.eval(), tokenizer, pooling

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of texts; equal texts are encoded once and get the same vector.

        The result depends on nothing but this call's set of texts: nothing is kept between calls, so that the
        float rounding of a work batch does not depend on the batches before it.

        Args:
            texts: N strings; an empty one is allowed.

        Returns:
            (N, D) float32 on the CPU, rows of length 1.

        Raises:
            NotFiniteError: a vector is not.
        """
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        row = {text: i for i, text in enumerate(unique)}
        parts = [self._encode(unique[i : i + _ROWS]) for i in range(0, len(unique), _ROWS)]
        if not parts:
            return torch.zeros(0, self.model.config.hidden_size)
        vectors = torch.cat(parts)
        with naming("sentence encoder", "Its weights are damaged: fetch them again (scoring.encoder)."):
            check_finite(vectors, lambda place: f"the vector of `{unique[place]}`")
        return vectors[[row[text] for text in texts]]

    def _encode(self, texts: list[str]) -> Tensor:
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt")
        batch = batch.to(self.model.device)
        hidden = self.model(**batch).last_hidden_state
        return pool(hidden, batch["attention_mask"], pooling=self.pooling).float().cpu()


def pool(hidden: Tensor, attention_mask: Tensor, *, pooling: Literal["cls", "mean"]) -> Tensor:
    """One unit vector per text from the last hidden states.

    Args:
        hidden: (N, L, D) float.
        attention_mask: (N, L), 1 at tokens (special ones included), 0 at padding.
        pooling: `cls` takes the first token (paper: BERT [CLS]), `mean` averages all tokens.

    Returns:
        (N, D), rows of length 1.
    """
    if pooling == "cls":
        vectors = hidden[:, 0]
    else:
        weights = attention_mask[:, :, None].to(hidden.dtype)
        vectors = (hidden * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(vectors, dim=-1)


def load_encoder(settings: Encoder, *, device: str = "cpu") -> SentenceEncoder:
    """Load the sentence encoder a config names, after checking its weights.

    Raises:
        ConfigError: the source names nothing that has weights, or some of them are not there.
        ArtifactError: the weights are not the pinned ones.
    """
    folder = encoder_folder(settings.source)
    digest = sha256(folder / WEIGHTS)
    if settings.sha256 is not None and digest != settings.sha256:
        raise ArtifactError(
            f"{folder / WEIGHTS}: sha256 is {digest}, but scoring.encoder.sha256 pins {settings.sha256}. Install the "
            "version of the encoder that the config pins (constraints.txt), or pin this one if the change is meant."
        )
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = read_model(AutoModel, folder, role="the sentence encoder", unused=r"^pooler\.")  # pooling is done here
    return SentenceEncoder(model.to(device), tokenizer, pooling=settings.pooling)


def load_choice_encoder(settings: Scoring, captions: SentenceEncoder, *, device: str = "cpu") -> SentenceEncoder:
    """The encoder for the nearest choice: its own, or that of captions where the config names no other."""
    return captions if settings.choice_encoder is None else load_encoder(settings.choice_encoder, device=device)


def encoder_folder(source: str | Source) -> Path:
    """Folder with the weights of `python:PACKAGE`, of a local folder, or of a source (fetched once, then cached).

    Raises:
        ConfigError: no such package or folder, or not exactly one `model.safetensors` in it.
        FetchError: a source cannot be had.
    """
    kind, _, package = source.partition(":") if isinstance(source, str) else ("", "", "")
    if isinstance(source, Source):
        folder = hub.fetch(source)
    elif kind == "python":
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"scoring.encoder.source: the Python package `{package}` is not installed. Run `make setup`, or name "
                "a folder with the encoder instead."
            )
        folder = Path(next(iter(spec.submodule_search_locations)))
    elif Path(source).is_dir():
        folder = Path(source)
    else:
        raise ConfigError(
            f"scoring.encoder.source: `{source}` is neither `python:PACKAGE` nor a folder. Name one that is there, or "
            "give repo, revision and files of a repository on the hub."
        )
    weights = sorted(folder.rglob(WEIGHTS))
    if len(weights) != 1:
        raise ConfigError(
            f"scoring.encoder.source: {source} leads to {folder}, which holds {len(weights)} files {WEIGHTS} instead "
            "of one. Name a package or folder with exactly one encoder in safetensors form."
        )
    return weights[0].parent
