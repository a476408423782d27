"""The seam behind which every family of unified models stands: what a backbone is, and how the config chooses one.

A backbone is a folder `models/FAMILY/` with three modules, or a module of the user's with what they hold:

    model           build, rebuild: the unified model, a `UnifiedModel`
    codec           load_codec, meta_codec: from pixels to what the model reads and generates, an `ImageCodec`
    codec_training  train_codec: the image tokenizer from scratch

`language_model.family` names the folder, or the module by its dotted path. Nothing outside `models/` names a family.
What an image is for understanding (`seen`) and what it is for generation (`generated`) are two forms; where they are
equal, an image that was generated is seen as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hermesflow.config.experiment import Config
from hermesflow.config.sections import ImageSampling, Precision, Training
from hermesflow.core.errors import ArtifactError, ConfigError, naming
from hermesflow.core.files import atomic, read_json, read_weights, write_json, write_weights
from hermesflow.core.finite import check_weights
from hermesflow.core.images import ImageForm
from hermesflow.models.loading import DTYPES, fill, moved, without_weights
from hermesflow.models.text_tokenizers import Tokenizer as TextTokenizer
from hermesflow.models.text_tokenizers import load_text_tokenizer

Completion: TypeAlias = str | Sequence[int]
"""A text, or the token ids that it was sampled as: they end in the end token, unless the text was cut."""
Noise: TypeAlias = Any
"""What images are scored under: a mask, noise and time of a flow, or nothing. Only the model that made it reads it."""
NoiseName: TypeAlias = tuple[int, int, str, int]
"""Run seed, self-play iteration, pair id, pass: the noise of a pair is a function of its name, so that chosen and
rejected, policy and reference, all objectives and a resumed run meet the same one."""


class TextSession(Protocol):
    """Texts being written token by token, one row each, about images whose keys and values are cached."""

    logits: Tensor
    """(N, V) float, for the next token of every row."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row, (N,) int64; returns the new `logits`."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, (K,) int64."""


class UnifiedModel(nn.Module, ABC):
    """A model that describes images and generates them.

    Sampling, scoring and Pair-DPO run it in evaluation mode, pre-training in training mode, which never touches what
    `frozen` names.
    """

    origin: str = "a model that was not loaded"
    """Its folder and precision, for errors."""
    family: str
    """What `language_model.family` says of it."""
    tokenizer: TextTokenizer
    """Of its texts."""
    seen: ImageForm
    """What texts are about."""
    generated: ImageForm
    """What is sampled, stored, preferred and scored."""
    caption_prompt: str
    question_template: str
    end_token: int
    no_text: Sequence[int] = ()
    """Tokens of the vocabulary that texts are never written with: image codes, say."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def naming(self) -> AbstractContextManager[None]:
        """Add this model and how to mend it to a `NotFiniteError` raised in the block."""
        return naming(
            self.origin,
            "Nothing was written. Set runtime.inference_precision to `no` (float32); if it is, the weights are "
            "damaged: delete the folder of the model and run snakemake again.",
        )

    @property
    @abstractmethod
    def text_rows(self) -> int:
        """Texts that one session has room for."""

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """Parts that are never trained: a vision tower, say."""
        return ()

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the frozen parts."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The part that LoRA adapts."""

    @property
    @abstractmethod
    def decoder_layers(self) -> Sequence[nn.Module]:
        """Layers whose activations can be computed again for the gradient."""

    @abstractmethod
    def generate_images(
        self, prompts: Sequence[str], *, settings: ImageSampling, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """One image per prompt, (B, *generated) on the CPU; row i reads generators[i] alone."""

    def is_cut(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than `generate_images` takes and lose their end; none where it takes any length."""
        return [False] * len(prompts)

    @abstractmethod
    def noise(self, names: Sequence[NoiseName], settings: Training) -> Noise:
        """The noise of B pairs, remade from their names; settings of masks are refused where there are none."""

    def scored_tokens(self, noise: Noise, rows: int) -> Tensor:
        """Tokens of an image that `image_logps` sums over under the noise of B = rows pairs, (B,): all of them here."""
        return torch.full((rows,), float(np.prod(self.generated.shape)))

    @abstractmethod
    def training_noise(self, rows: int, generator: torch.Generator) -> Noise:
        """Noise of a pre-training batch; the generator is advanced."""

    @abstractmethod
    def image_logps(
        self, prompts: Sequence[str], images: Tensor, noise: Noise, *, owners: Tensor | None = None
    ) -> Tensor:
        """Log-probability of images given their prompts, under the noise of the prompts, (B,) float32 nats.

        Args:
            prompts: U prompts.
            images: (B, *generated).
            noise: of U pairs.
            owners: (B,) int64, the prompt of each image, as many images for each; None is one image per prompt.
        """

    @abstractmethod
    def text_logps(
        self, seen: Tensor, prompts: Sequence[str], completions: Sequence[Completion], *, owners: Tensor | None = None
    ) -> Tensor:
        """Log-probability of each completion, given image seen[owners[i]] and prompt, (B,) float32 nats.

        Its tokens are those of `completion_tokens`: the end of a text is scored too, unless it was cut.
        """

    @abstractmethod
    def text_session(self, seen: Tensor, owners: Tensor, prompts: Sequence[str]) -> TextSession:
        """Start N texts; row i is about image seen[owners[i]] and starts after prompts[i]."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids per text, without those that begin or end one."""
        return self.tokenizer.encode(texts)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of sampled token ids; the end token and ids that are not text are left out."""
        return self.tokenizer.decode([i for i in ids if i < self.tokenizer.size and i != self.end_token])

    def completion_tokens(self, completions: Sequence[Completion]) -> list[list[int]]:
        """Token ids of completions: of texts with their end token, of sampled ones as they were sampled."""
        # the space keeps byte-pair tokens at the seam as they are when prompt and completion are one text
        encoded = iter(self.tokenizer.encode([f" {text}" for text in completions if isinstance(text, str)]))
        return [[*next(encoded), self.tokenizer.boundary] if isinstance(one, str) else list(one) for one in completions]

    def room(self, prompt: str) -> int | None:
        """Tokens of a completion, its end token included, that there is room for behind a prompt; None is any number.

        A longer one is cut, and then has no end.
        """
        return None

    def scored_lengths(self, prompts: Sequence[str], completions: Sequence[Completion]) -> list[int]:
        """Tokens of each completion that `text_logps` sums over: those that there is room for behind its prompt."""
        room = {prompt: self.room(prompt) for prompt in set(prompts)}
        rows = zip(prompts, self.completion_tokens(completions), strict=True)
        return [len(tokens[: room[prompt]]) for prompt, tokens in rows]

    @abstractmethod
    def image_loss(self, prompts: Sequence[str], images: Tensor, noise: Noise) -> Tensor:
        """Pre-training loss of generation, a scalar; an empty prompt trains the unconditional one."""

    @abstractmethod
    def text_loss(self, seen: Tensor, owners: Tensor, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """Pre-training loss of understanding, a scalar: every text counts alike."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `rebuild` of the family makes the model from beside its tokenizer, as plain JSON data."""

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write `model.safetensors`, `tokenizer.json` and, last, `config.json`: all that `load_model` reads.

        Args:
            folder: made if it is not there.
            weights: of the model; its state dict if None. Of a sharded model they must be gathered first.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder / "model.safetensors", self.state_dict() if weights is None else weights)
        self.describe(folder)

    def describe(self, folder: Path) -> None:
        """Write `tokenizer.json` and `config.json` beside the weights."""
        with atomic(folder / "tokenizer.json") as temporary:
            self.tokenizer.save(temporary)
        boundary = self.tokenizer.boundary_token
        write_json(folder / "config.json", {"family": self.family, "boundary_token": boundary, **self.settings()})


class ImageCodec(Protocol):
    """From pixels to what a model reads and generates, and back; frozen."""

    seen: ImageForm
    generated: ImageForm
    image_size: int
    """Pixels per side."""
    network: nn.Module
    """What has the weights."""

    def see(self, images: np.ndarray) -> Tensor:
        """What understanding reads of images, (N, H, W, 3) uint8 to (N, *seen) on the CPU."""

    def see_generated(self, images: Tensor) -> Tensor:
        """What understanding reads of generated images, (N, *generated) to (N, *seen) on the CPU."""

    def encode(self, images: np.ndarray) -> Tensor:
        """What generation is trained on, (N, H, W, 3) uint8 to (N, *generated) on the CPU.

        The same as `see` gives where both forms are one: then it is not computed twice.
        """

    def to_pixels(self, images: Tensor) -> np.ndarray:
        """Generated images for judges, metrics and people, (N, *generated) to (N, H, W, 3) uint8."""

    def save(self, folder: Path) -> None:
        """Write all that `load_codec` reads."""

    def describe(self, folder: Path) -> None:
        """Write what `save` writes beside the weights."""


def refuse_masks(settings: Training) -> None:
    """Refuse settings of masks where a family masks nothing, so that no arm is called by what it does not do.

    Raises:
        ConfigError: a schedule or shares other than the default.
    """
    for key in ("mask_schedule", "mask_ratios"):
        if (value := getattr(settings, key)) != (default := getattr(Training, key)):
            raise ConfigError(
                f"training.{key} is {value!r}, but this backbone masks no image tokens; leave it out of `training` and "
                f"of its `checkpoints` (default {default!r})."
            )


def part(family: str, name: str) -> ModuleType:
    """Module `name` of a family's folder; of a family given by a dotted path, that module itself.

    Args:
        family: `language_model.family`.
        name: model, codec or codec_training.

    Raises:
        ConfigError: there is no such family, or it has no such part.
    """
    path = module_of(family, name)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(error.name + ".")):
            raise  # the family is there, and something that it imports is not
        raise ConfigError(
            f"language_model.family: `{family}`: no module {path}. Name one of {families()}, or a module of your own "
            "by its dotted path (docs/architecture.md, `A backbone of your own`)."
        ) from None


def module_of(family: str, name: str) -> str:
    """Dotted path of a part of a family, which need not be there."""
    if "." not in family:
        return f"{__package__}.{family}.{name}"
    spec = importlib.util.find_spec(family.rpartition(".")[0])
    folders = [Path(place) / family.rpartition(".")[2] for place in (spec and spec.submodule_search_locations) or ()]
    return f"{family}.{name}" if any((folder / f"{name}.py").is_file() for folder in folders) else family


def families() -> list[str]:
    """Names of the families that come with this package: folders with a module `model`."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/model.py"))


def new_model(config: Config, *, seed: int) -> UnifiedModel:
    """A model with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(config).eval()


def meta_model(config: Config) -> UnifiedModel:
    """A model without weights: names and shapes alone, in no memory."""
    with torch.device("meta"):
        return _build(config)


def load_model(folder: Path, *, device: torch.device | str, precision: Precision = "no") -> UnifiedModel:
    """Read what `UnifiedModel.save` wrote, in evaluation mode; weights must fit exactly.

    Args:
        folder: of the model.
        device: where it goes.
        precision: of the weights, and so of all that is computed, where nothing is trained; `no` is float32.

    Raises:
        ArtifactError: a file is missing, truncated or of another model, or a weight is not finite in that precision.
    """
    folder = Path(folder)
    model = model_without_weights(folder)
    with _of_one_model(folder):
        fill(model, read_weights(folder / "model.safetensors"))
    moved(model, device, DTYPES[precision])
    check_weights(
        model.state_dict().items(),
        str(folder),
        "If precision is fp16, they may have been too large for it: set runtime.inference_precision to `bf16` or `no`. "
        "Otherwise the file is damaged: delete the folder and run snakemake again.",
    )
    model.origin = f"{folder} in precision {precision}"
    return model


def model_without_weights(folder: Path) -> UnifiedModel:
    """Likewise without the weights, in no memory: it tokenises texts, and knows which it would cut.

    Raises:
        ArtifactError: a file is missing, truncated or of another model.
    """
    settings = _described(folder)
    rebuild = part(settings["family"], "model").rebuild
    with _of_one_model(folder), without_weights():
        model: UnifiedModel = rebuild(
            settings, load_text_tokenizer(folder / "tokenizer.json", settings["boundary_token"])
        )
    return model


@contextmanager
def _of_one_model(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(
            f"{folder}: its files are not of one model ({error}). Take all of them from the same checkpoint."
        ) from error


def train_codec(config: Config, images: np.ndarray) -> tuple[ImageCodec, pd.DataFrame]:
    """The image tokenizer from scratch on (N, H, W, 3) uint8 images, and its history (step, loss, ...)."""
    codec: tuple[ImageCodec, pd.DataFrame] = part(config.language_model.family, "codec_training").train_codec(
        config, images
    )
    return codec


def meta_codec(config: Config) -> ImageCodec:
    """A codec without weights; its `network` has the names and shapes of released ones."""
    codec: ImageCodec = part(config.language_model.family, "codec").meta_codec(config)
    return codec


def load_codec(folder: Path, *, device: torch.device | str) -> ImageCodec:
    """Read what `ImageCodec.save` wrote.

    Raises:
        ArtifactError: a file is missing or truncated, or the weights do not fit or are not finite.
    """
    codec: ImageCodec = part(_described(folder)["family"], "codec").load_codec(folder, device=device)
    mend = "The file is damaged: delete the folder and run snakemake again."
    check_weights(codec.network.state_dict().items(), str(folder), mend)
    return codec


def seen_of(model: UnifiedModel, images: Tensor, codec: Callable[[], ImageCodec]) -> Tensor:
    """What understanding reads of generated images, (N, *generated) to (N, *seen).

    Args:
        model: who reads.
        images: as generated.
        codec: gives the image tokenizer; not called where both forms are one.
    """
    return images if model.seen == model.generated else codec().see_generated(images)


def recompute_activations(model: UnifiedModel) -> None:
    """Let decoder layers keep their inputs alone and compute the rest again for the gradient: less memory, same values.

    Not transformers' own switch: that one is off in eval mode, in which Pair-DPO trains, and drops the shared prefix.
    """
    for layer in model.decoder_layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def _build(config: Config) -> UnifiedModel:
    model: UnifiedModel = part(config.language_model.family, "model").build(config)
    return model


def _described(folder: Path) -> dict[str, Any]:
    """What `config.json` of a model or a codec says."""
    path = Path(folder) / "config.json"
    plain = read_json(path)
    if not isinstance(plain, dict) or "family" not in plain:
        raise ArtifactError(f"{path}: names no family. It is not of this version: delete its folder and make it again.")
    return plain
