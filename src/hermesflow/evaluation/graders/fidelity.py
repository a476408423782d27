"""Frechet distance to real images by reference statistics, and CLIP score, as papers measure them on COCO.

Each image is scaled to 299 x 299 by antialiased bicubic interpolation in float, not rounded, and cut off at 0 and 255
(clean-fid's `clean` mode); features are Inception's 2048 (`inception`). Figures made with another scaling cannot be
compared with these: the reference statistics must have been made the same way. CLIP score is 100 * max(cosine, 0), the
caption cut to CLIP's 77 tokens, the image scaled and cut by CLIP's own processor (`pretrained.PretrainedClip`).

Source: Heusel et al. 2017 (Frechet distance); Parmar et al. 2022 (clean-fid); Hessel et al. 2021 (CLIPScore).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hermesflow.core.errors import DataError
from hermesflow.core.files import atomic
from hermesflow.core.finite import check_finite
from hermesflow.evaluation.evaluated import Whole
from hermesflow.evaluation.frechet import distances_to, frechet_distance
from hermesflow.evaluation.graders.inception import SIDE
from hermesflow.evaluation.graders.pretrained import PretrainedClip

_TOGETHER = 32  # images per forward pass
NOTES = ("image_ids", "inception")


@dataclass(frozen=True)
class Caption:
    """What one image is drawn from."""

    image_id: int
    """COCO's id of the real image."""
    caption: str

    @property
    def key(self) -> str:
        """The id as COCO's file names have it; keys sort as the ids do."""
        return f"{self.image_id:012d}"


@dataclass(frozen=True)
class Gaussian:
    """Moments of features."""

    mean: np.ndarray
    """(D,) float64."""
    covariance: np.ndarray
    """(D, D) float64, of a sample (divided by one less than its size)."""
    notes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What a file of statistics says it was made from: arrays of `NOTES`."""


FeatureExtractor = Callable[[Tensor], Tensor]
"""What the Frechet distance sees with: (N, 3, 299, 299) float images, 0 to 255, to (N, D) features."""


def read_reference(path: Path) -> Gaussian:
    """Read reference statistics in the format of pytorch-fid and clean-fid.

    Args:
        path: `.npz` with the arrays mu (D,) and sigma (D, D).

    Raises:
        DataError: unreadable, without these arrays, or with arrays that are no moments.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (arrays[name].astype(np.float64, casting="same_kind") for name in ("mu", "sigma"))
            notes = {name: arrays[name] for name in NOTES if name in arrays}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:  # TypeError: one array
        raise DataError(
            f"{path}: cannot be read as reference statistics ({error}). Make the npz with mu and sigma: "
            "`hermesflow fid-reference` does (docs/dpg-and-coco.md)."
        ) from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise DataError(f"{path}: mu is {mean.shape} and sigma {covariance.shape}; (D,) and (D, D) are needed.")
    finite = np.isfinite(mean).all() and np.isfinite(covariance).all() and (covariance.diagonal() >= 0).all()
    if not finite or not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
        raise DataError(
            f"{path}: mu or sigma is not finite, or sigma not symmetric or negative on its diagonal. Make the "
            "statistics again."
        )
    return Gaussian(mean, covariance, notes)


def write_reference(path: Path, gaussian: Gaussian, **notes: np.ndarray) -> None:
    """Write statistics of real images in the format of pytorch-fid and clean-fid, and what else shall be noted."""
    with atomic(path) as temporary, temporary.open("wb") as file:  # of a mere name numpy would make another, with .npz
        np.savez(file, allow_pickle=False, mu=gaussian.mean, sigma=gaussian.covariance, **notes)


def moments(features: np.ndarray) -> Gaussian:
    """Mean and covariance of (N, D) features."""
    wide = features.astype(np.float64)
    return Gaussian(wide.mean(axis=0), np.atleast_2d(np.cov(wide, rowvar=False)))


def stand_in(reference: Gaussian) -> np.ndarray:
    """Rows with exactly the moments of a reference, to take the place of its features.

    The distance sees nothing of the real features but their moments: with these rows as `real`, torchmetrics' distance
    serves a reference that is known by its moments alone.

    Returns:
        (2 D, D) float64: mean +- sqrt((2 D - 1) / 2) times the rows of the symmetric root of the covariance.
    """
    values, vectors = np.linalg.eigh(reference.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    apart = np.sqrt((2 * len(root) - 1) / 2) * root
    return reference.mean + np.concatenate([apart, -apart])


def distance(features: np.ndarray, reference: Gaussian) -> float:
    """Frechet distance of drawn images' features (N, D) to reference statistics, by torchmetrics.

    Raises:
        DataError: the statistics are of another extractor.
    """
    if features.shape[1] != len(reference.mean):
        raise DataError(
            f"the reference statistics have {len(reference.mean)} features and the drawn images {features.shape[1]}. "
            "Make both with one extractor."
        )
    return frechet_distance(features.astype(np.float64), stand_in(reference))


def distance_of(
    features: np.ndarray,
    reference: Gaussian,
    counts: np.ndarray,
    *,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda _: None,
) -> Whole:
    """The distance (`distance`) with its bootstrap: drawn images are resampled, the reference is fixed.

    Args:
        features: (N, D) of drawn images.
        reference: statistics of real images.
        counts: (R, N) how often each image is drawn.
        device: where the resamples are reckoned: one of 30,000 x 2,048 takes seconds of a CPU core.
        advance: told of each resample that is done.

    Raises:
        DataError: the statistics are of another extractor.
    """
    value, wide = distance(features, reference), features.astype(np.float64)
    moved = distances_to(counts, wide, reference.mean, reference.covariance, device=device, advance=advance)
    return Whole(value, len(features), tuple(moved.tolist()))


def scaled(image: np.ndarray) -> np.ndarray:
    """Scale one image to 299 x 299 as clean-fid does.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (3, 299, 299) float32, 0 to 255: bicubic with antialiasing, channel by channel in float, not rounded.
    """
    channels = [Image.fromarray(image[:, :, channel].astype(np.float32)) for channel in range(3)]
    sides = [np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in channels]
    return np.stack(sides).clip(0, 255)


@torch.inference_mode()
def features(extractor: FeatureExtractor, images: Sequence[np.ndarray], *, device: str = "cpu") -> np.ndarray:
    """Features for the Frechet distance, (N, D) float32, of N >= 1 images (H, W, 3) uint8, in their order."""
    parts = []
    for start in range(0, len(images), _TOGETHER):
        together = np.stack([scaled(image) for image in images[start : start + _TOGETHER]])
        seen = extractor(torch.from_numpy(together).to(device)).float().cpu()
        check_finite(seen, lambda row, start=start: f"a feature of image {start + row}")  # type: ignore[misc]
        parts.append(seen.numpy())
    return np.concatenate(parts)


def clip_scores(clip: PretrainedClip, images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """100 * max(cosine, 0) of each image (H, W, 3) uint8 with its caption, (N,) float64.

    Source: Hessel et al. 2021 (CLIPScore), with the scale of 100 that torchmetrics and the paper use.
    """
    if len(images) != len(captions):
        raise DataError(f"{len(images)} images for {len(captions)} captions. Draw one image from each caption.")
    image_features = clip.image_vectors([Image.fromarray(image) for image in images]).double()
    text_features = clip.text_vectors(captions).double()
    return 100 * (image_features * text_features).sum(dim=1).clamp(min=0).numpy()
