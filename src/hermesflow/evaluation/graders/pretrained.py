"""Released models the benchmarks judge with: read from a folder or a pinned source, never as a pickle.

Images go through transformers' PIL processors (antialiased), whatever else is installed, so that a figure does not
depend on whether torchvision is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hermesflow.config.sections import Source
from hermesflow.core import hub
from hermesflow.core.errors import ConfigError
from hermesflow.core.files import sha256
from hermesflow.core.pretrained import READING, read_model

_TOGETHER = 32  # images or texts per forward pass
_CLIP = "the CLIP model"


def read_pretrained(kind: str | type, source: str | Source, *, role: str, **options: Any) -> Any:
    """Call `from_pretrained` of a class of transformers on local files.

    Args:
        kind: the class, or its name.
        source: a folder, or a source.
        role: what the model is for, in words for an error.
        options: passed on; weights must be asked for with `use_safetensors=True`.

    Raises:
        ConfigError: it cannot be read, is not pinned, its weights are not in safetensors form, or some are not there.
        FetchError: a file of a source cannot be had, or is not the pinned one.
    """
    import transformers

    folder = hub.fetch(source) if isinstance(source, Source) else Path(source)
    name = kind if isinstance(kind, str) else kind.__name__
    reader: Any = getattr(transformers, kind) if isinstance(kind, str) else kind
    try:
        if options.pop("use_safetensors", False):
            return read_model(reader, folder, role=role, **options)
        return reader.from_pretrained(folder, local_files_only=True, **options)
    except READING as error:
        raise ConfigError(
            f"{folder}: cannot be read as {role} ({name}): {' '.join(str(error).split())[:400]} It must hold the "
            "configuration, processor and safetensors weights of a released model, each file whole."
        ) from error


def finite(values: Tensor, *, role: str) -> Tensor:
    """What a model gave, if all of it are numbers: of others every comparison is false, and nobody would notice.

    Raises:
        ConfigError: something is infinite or not a number.
    """
    if not values.isfinite().all():
        raise ConfigError(
            f"{role} returned values that are infinite or NaN, so its weights may be damaged. Download them again."
        )
    return values


def read_processor(model: Any, source: str | Source, *, role: str) -> Any:
    """The processor of an image-text-to-text model, for images and texts alone.

    Processors of models that also see videos (Qwen-VL's) have a part for them that only exists with torchvision; it
    is left out.

    Args:
        model: the model, read from the same source.
        source: a folder, or a source.
        role: what the model is for, in words for an error.

    Raises:
        ConfigError: it cannot be read, or there is none for this kind of model.
        FetchError: a file of a source cannot be had, or is not the pinned one.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        kind: Any = PROCESSOR_MAPPING[type(model.config)]
        parts = kind.get_attributes()
    except (KeyError, ImportError) as error:
        raise ConfigError(
            f"{source}: {role} is a {type(model).__name__}, whose processor cannot be had here: "
            f"{' '.join(str(error).split())[:400]} Name another model, Qwen3-VL for example."
        ) from error
    attributes = parts[:-1] if parts[-1] == "video_processor" else parts  # arguments go by place
    processor_class = type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda _: attributes)})
    return read_pretrained(processor_class, source, role=role, backend="pil")


def name_of(source: str | Source) -> str:
    """What tables call a model: repository and revision, or its folder with the sha256 of the first file pinned."""
    if isinstance(source, str):
        return source
    if source.folder is None:
        return f"{source.repo}@{source.revision}"
    pinned = next((pin for pin in source.files.values() if pin), None)
    return f"{source.folder} (sha256 {pinned})" if pinned else source.folder


def digest_of(source: str | Source) -> str:
    """Hex sha256 of what a model is read from: repository, revision and pins, or all files of a folder.

    Hidden files and folders do not count. A pin stands for its file: whoever reads a source has compared them.
    """
    if isinstance(source, Source) and source.folder is None:
        content: list[object] = [source.repo, source.revision, source.files]
    else:
        folder, pins = (Path(str(source.folder)), source.files) if isinstance(source, Source) else (Path(source), {})
        names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        visible = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        content = [[name.as_posix(), pins.get(name.as_posix()) or sha256(folder / name)] for name in visible]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ChatModel:
    """A released image-text-to-text model that answers one message at a time, greedily.

    Args:
        source: a folder, or a source.
        role: what the model is for, in words for an error.
        device: where it runs.
        dtype: number type of its weights; `auto` is the one they were saved in.

    Raises:
        ConfigError: it cannot be read, or has no chat template.
        FetchError: a source cannot be had.
    """

    def __init__(self, source: str | Source, *, role: str, device: str, dtype: str | torch.dtype = "auto") -> None:
        folder = str(hub.fetch(source)) if isinstance(source, Source) else source  # once: checksums of some 17 GB
        kind = "AutoModelForImageTextToText"
        model = read_pretrained(kind, folder, role=role, use_safetensors=True, dtype=dtype)
        self.processor = read_processor(model, folder, role=role)
        if not getattr(self.processor, "chat_template", None):
            raise ConfigError(f"{folder}: {role} has no chat template. Name an instruct model.")
        self.model: Any = model.to(device).eval()
        ends = self.model.generation_config.eos_token_id
        self.ends: frozenset[int] = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        """Tokens that end an answer."""

    @torch.inference_mode()
    def generate(self, content: Sequence[Mapping[str, object]], **options: Any) -> tuple[Any, int]:
        """What `generate` of transformers gives for a user's message, and the number of tokens before the answer."""
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device, dtype=self.model.dtype)
        return self.model.generate(**inputs, do_sample=False, num_beams=1, **options), inputs["input_ids"].shape[1]


class PretrainedClip:
    """A released CLIP: images and texts to vectors of one space.

    Images are scaled and cut as the model's own processor says (openai/clip-vit-large-patch14: shorter side to 224 by
    antialiased bicubic, the middle 224 x 224). Texts are cut to the model's context (77 tokens with both end tokens).
    """

    def __init__(self, source: str | Source, *, device: str = "cpu") -> None:
        self.model = read_pretrained("CLIPModel", source, role=_CLIP, use_safetensors=True).to(device).eval()
        self._processor = self.image_processor = read_pretrained(
            "AutoImageProcessor", source, role=_CLIP, backend="pil"
        )
        self._tokenizer = read_pretrained("AutoTokenizer", source, role=_CLIP)
        self.max_tokens = int(self.model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def image_vectors(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors (N, D) float32 on the CPU of N >= 1 images of any size."""
        return torch.cat([self._of_images(images[i : i + _TOGETHER]) for i in range(0, len(images), _TOGETHER)])

    @torch.inference_mode()
    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) float32 on the CPU of N >= 1 texts."""
        return torch.cat([self._of_texts(texts[i : i + _TOGETHER]) for i in range(0, len(texts), _TOGETHER)])

    def is_cut(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the model's context and lose their end."""
        return [len(ids) > self.max_tokens for ids in self._tokenizer(list(texts))["input_ids"]]

    def _of_images(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = self._processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        hidden = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
        return F.normalize(finite(self.model.visual_projection(hidden), role=_CLIP), dim=-1).float().cpu()

    def _of_texts(self, texts: Sequence[str]) -> Tensor:
        batch = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        hidden = self.model.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        vectors = finite(self.model.text_projection(hidden.pooler_output), role=_CLIP)
        return F.normalize(vectors, dim=-1).float().cpu()
