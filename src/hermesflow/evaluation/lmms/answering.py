"""Answers of a unified model to questions about pictures: each picture is coded once and run once per batch.

Nothing here knows lmms-eval; `plugin` translates its requests.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hermesflow.config.sections import Decoding
from hermesflow.core.errors import DataError
from hermesflow.core.images import PIXELS_TOGETHER, as_stored, as_tensor
from hermesflow.data.images import fit_image
from hermesflow.models.backbone import ImageCodec, UnifiedModel
from hermesflow.selfplay.sampling import sample_texts

GREEDY = Decoding(top_k=1, temperature=1.0)


@dataclass(frozen=True)
class Stopping:
    """When an answer ends, apart from its end token."""

    max_new_tokens: int
    until: tuple[str, ...] = ()
    """An answer is cut before the first of these texts that it holds."""

    @staticmethod
    def from_settings(settings: Mapping[str, object], *, otherwise: int) -> Stopping:
        """Read a task's `generation_kwargs`.

        Args:
            settings: as the task has them.
            otherwise: new tokens where the task names no number.

        Raises:
            DataError: the task asks for sampling or for beams.
        """
        hot = settings.get("do_sample") and settings.get("temperature", 1.0)
        if hot or settings.get("num_beams", 1) not in (None, 1):
            raise DataError(
                f"generation_kwargs: {dict(settings)} ask for sampling or beams, but benchmarks are answered greedily. "
                "Set do_sample: false and num_beams: 1 in the task or by --gen_kwargs."
            )
        until = settings.get("until") or ()
        texts = (until,) if isinstance(until, str) else tuple(str(text) for text in until)  # type: ignore[attr-defined]
        return Stopping(int(settings.get("max_new_tokens") or otherwise), texts)  # type: ignore[call-overload]

    def cut(self, text: str) -> str:
        """The text before the first of `until`."""
        places = [place for stop in self.until if stop and (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text


@dataclass
class Pictures:
    """Pictures as understanding reads them, by digest of their pixels; equal pictures are read once."""

    codec: ImageCodec
    seen: dict[str, np.ndarray] = field(default_factory=dict)
    """Digest of the pixels -> (*seen), as it is stored."""

    def add(self, pictures: Iterable[Image.Image]) -> list[str]:
        """Digests of pictures, in their order; new ones are cut to a square, scaled and coded.

        Raises:
            DataError: a picture cannot be decoded.
        """
        digests, new = [], {}
        for picture in pictures:
            image = picture.convert("RGB")
            digest = pixel_digest(image)
            digests.append(digest)
            if digest not in self.seen:
                new[digest] = image
            if len(new) * self.codec.image_size**2 >= PIXELS_TOGETHER:
                self._encode(new)
                new = {}
        if new:
            self._encode(new)
        return digests

    def _encode(self, images: Mapping[str, Image.Image]) -> None:
        rows = np.stack([square(image, self.codec.image_size) for image in images.values()])
        seen = as_stored(self.codec.see(rows), self.codec.seen).numpy().astype(self.codec.seen.dtype)
        self.seen.update(zip(images, seen, strict=True))


def pixel_digest(image: Image.Image) -> str:
    """Hex digest of size and pixels of an RGB image: the same image in two records has one."""
    head = f"{image.width}x{image.height}:".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()[:16]


def square(image: Image.Image, image_size: int) -> np.ndarray:
    """The pixels the model sees, (image_size, image_size, 3) uint8: prepared as all other people's images are."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=0)
    with Image.open(io.BytesIO(fit_image(file.getvalue(), image_size).png)) as fitted:
        return np.asarray(fitted)


def by_picture(owners: Sequence[str], *, together: int) -> list[list[int]]:
    """Places of questions in batches of at most `together` pictures, all questions about one picture in one batch."""
    places: dict[str, list[int]] = {}
    for place, owner in enumerate(owners):
        places.setdefault(owner, []).append(place)
    groups = list(places.values())
    return [
        [place for group in groups[start : start + together] for place in group]
        for start in range(0, len(groups), together)
    ]


def answers(
    model: UnifiedModel, seen: Mapping[str, np.ndarray], owners: Sequence[str], questions: Sequence[str], stop: Stopping
) -> list[str]:
    """One greedy answer per question.

    Args:
        model: the model that answers.
        seen: picture -> (*seen).
        owners: N pictures, one per question.
        questions: N questions, without the model's own template.
        stop: when an answer ends.

    Returns:
        N texts without blanks around them.
    """
    images, rows = _stacked(seen, owners, model.device)
    texts = sample_texts(
        model,
        images,
        rows,
        [model.question_template.format(question) for question in questions],
        decodings=[GREEDY] * len(questions),
        max_new_tokens=stop.max_new_tokens,
        generators=[torch.Generator()] * len(questions),  # greedy: its numbers decide nothing
    )
    return [stop.cut(text).strip() for text in texts]


def _stacked(seen: Mapping[str, np.ndarray], owners: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """The different pictures, (I, *seen), and the place of each question's among them, (N,)."""
    places = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    images = as_tensor(np.stack([seen[owner] for owner in places])).to(device)
    return images, torch.tensor([places[owner] for owner in owners])
