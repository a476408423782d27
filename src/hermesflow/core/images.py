"""Arrays of images on disk: codes, latents or pixels, with the form of one image and the ids beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import REDO, atomic, read_json, sha256, write_json

if TYPE_CHECKING:  # torch takes seconds to import, and short steps do without it
    from torch import Tensor


PIXELS_TOGETHER = 250 * 48**2
"""Pixels of images that are read together (memory only)."""


@dataclass(frozen=True)
class ImageForm:
    """What the array of one image holds, as it is stored."""

    kind: Literal["codes", "latents", "pixels"]
    """Indices into a codebook, floats of a continuous tokenizer, or colours."""
    shape: tuple[int, ...]
    """Of one image: (T,) codes, (T, levels) residual codes, (C, h, w) latents, (3, H, W) pixels."""
    dtype: str
    """NumPy's name of the number type: uint16, float16, uint8."""

    def empty(self, *leading: int) -> np.ndarray:
        """No images: zeros of shape (*leading, *shape), of which one leading size is 0."""
        return np.zeros((*leading, *self.shape), dtype=self.dtype)

    @staticmethod
    def from_json(plain: dict[str, Any]) -> ImageForm:
        """Of a file beside images."""
        return ImageForm(plain["kind"], tuple(plain["shape"]), plain["dtype"])


def as_tensor(images: np.ndarray) -> Tensor:
    """Stored images for a model: codes as int64, other arrays with the numbers they have."""
    import torch

    # a copy: files are mapped read-only
    return torch.from_numpy(images.astype(np.int64 if images.dtype == np.uint16 else images.dtype, order="C"))


def as_stored(images: Tensor, form: ImageForm) -> Tensor:
    """Images as they come back from a file: latents are rounded to the numbers of their form, codes stay.

    Args:
        images: (N, ..., *form.shape) on the CPU.
        form: of one image.

    Raises:
        ArtifactError: a value does not survive its form or is not finite.
    """
    return as_tensor(_stored(images.numpy(), form, "image {}".format))


def write_images(
    path: Path, ids: Sequence[str], images: np.ndarray, form: ImageForm, *, cut: Collection[str] = ()
) -> None:
    """Store arrays of images.

    Args:
        path: `*.npy`; ids, form and sha256 go to `*.json` beside it.
        ids: N ids, unique.
        images: (N, n, *form.shape), n images of each id; values must survive `form.dtype`.
        form: of one image.
        cut: ids whose prompts were longer than the model takes; they go to `*.json`, where there are any.

    Raises:
        ArtifactError: an id is there twice, the arrays are not of this form, or a value does not survive it or is not
            finite.
    """
    if len(ids) != len(images) or len(set(ids)) != len(ids):
        raise ArtifactError(f"{path}: {len(ids)} ids ({len(set(ids))} different) for {len(images)} rows of images.")
    if images.shape[2:] != form.shape:
        raise ArtifactError(f"{path}: images of shape {images.shape[2:]} instead of {form.shape} ({form.kind}).")
    stored = _stored(images, form, lambda row: f"{path}: image `{ids[row]}`")
    with atomic(path) as temporary:
        np.save(temporary, stored)
        digest = sha256(temporary)
    index = {"ids": list(ids), "shape": list(stored.shape), "sha256": digest, "form": asdict(form)}
    write_json(path.with_suffix(".json"), index | ({"cut": [id_ for id_ in ids if id_ in cut]} if cut else {}))


def read_cut(path: Path) -> list[str]:
    """Ids of images whose prompts the model cut, as `write_images` left them."""
    return list(read_json(path.with_suffix(".json")).get("cut", ()))


def _stored(images: np.ndarray, form: ImageForm, what: Callable[[int], str]) -> np.ndarray:
    """Images in the numbers of their form; `what` names one of them for the error."""
    with np.errstate(all="ignore"):  # what does not survive is refused below
        stored = np.ascontiguousarray(images, dtype=form.dtype)
    good = np.isfinite(stored) if np.issubdtype(stored.dtype, np.floating) else stored == images
    if not good.all():
        row = int((~good.reshape(len(images), -1).all(axis=1)).argmax())
        value = images[row][~good[row]][0]
        raise ArtifactError(
            f"{what(row)} holds {value}, which is no {form.dtype} ({(~good).sum():,} such values). Nothing was "
            "written: the model that made it is damaged, or its form (models/backbone.py) is too narrow."
        )
    return stored


def read_images(path: Path, form: ImageForm | None = None) -> tuple[list[str], np.ndarray]:
    """Ids and images, (N, n, *form.shape), memory-mapped.

    Args:
        path: `*.npy`.
        form: what is expected of one image; None takes any.

    Raises:
        ArtifactError: missing, truncated, not what was written, or of another form.
    """
    index = read_json(path.with_suffix(".json"))
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path}: truncated or not an array of images ({error}). {REDO}") from error
    if list(images.shape) != index["shape"] or sha256(path) != index["sha256"]:
        raise ArtifactError(
            f"{path}: holds an array of {images.shape} that is not the {index['shape']} written with "
            f"{path.with_suffix('.json').name} (sha256 differs). {REDO}"
        )
    stored = ImageForm.from_json(index["form"])
    if form is not None and stored != form:
        raise ArtifactError(f"{path}: images are {stored}, but the model in the config takes {form}. {REDO}")
    return index["ids"], images


def read_form(path: Path) -> ImageForm:
    """The form of the images in a file that `write_images` wrote.

    Raises:
        ArtifactError: missing or not such a file.
    """
    return ImageForm.from_json(read_json(path.with_suffix(".json"))["form"])
