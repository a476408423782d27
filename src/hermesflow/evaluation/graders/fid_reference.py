"""Reference statistics of the Frechet distance from the real images that a list of captions is about.

The images are scaled and seen just as drawn ones are (`fidelity`); statistics from elsewhere mostly are not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hermesflow.core.errors import DataError
from hermesflow.core.progress import Progress
from hermesflow.data.images import open_image
from hermesflow.data.sources.folder import IMAGE_ENDINGS
from hermesflow.evaluation.benchmarks.coco import BENCHMARK, Coco, read_captions
from hermesflow.evaluation.graders import fidelity
from hermesflow.evaluation.graders.fidelity import Caption, FeatureExtractor, Gaussian
from hermesflow.evaluation.graders.inception import load_inception
from hermesflow.evaluation.graders.reference_origin import origin

_TOGETHER = 32  # images decoded at once


def make_reference(settings: Coco, folder: Path, *, device: str) -> None:
    """Write the file `benchmarks.coco.reference` from the real images of `benchmarks.coco.captions`.

    Args:
        settings: the section.
        folder: the real images, as COCO's archive val2014.zip has them.
        device: torch device.

    Raises:
        ConfigError: the Inception weights are not pinned.
        DataError: the list of captions or an image of it is missing or broken.
        FetchError: the Inception weights are missing, or are not the pinned ones.
        ArtifactError: they are of another network.
    """
    captions = read_captions(BENCHMARK.require_file(settings, "captions"))
    files = real_images(captions, folder)
    extractor = load_inception(settings.inception, device=device)
    progress = Progress(len(files), "Frechet reference", "image")
    moments = moments_of(files, extractor, progress.advance, device=device)
    fidelity.write_reference(Path(settings.reference), moments, **origin(captions, settings.inception))


def real_images(captions: Sequence[Caption], folder: Path) -> list[Path]:
    """The image file of each caption: the one whose name ends with COCO's id, like `COCO_val2014_000000000042.jpg`.

    Raises:
        DataError: no such folder, an image is not in it, or two files have its id.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder (--images). Unpack COCO's val2014.zip and name its folder of images."
        )
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_ENDINGS:
            files[path.stem.rpartition("_")[2]].append(path)
    missing = [one.key for one in captions if one.key not in files]
    if missing:
        raise DataError(
            f"{folder}: has {len(captions) - len(missing)} of the {len(captions)} images of the caption list; the "
            f"first that is missing is COCO_val2014_{missing[0]}.jpg. Name the folder with all of val2014."
        )
    for one in captions:
        if len(files[one.key]) > 1:
            names = " and ".join(path.name for path in files[one.key])
            raise DataError(f"{folder}: {names} are one image by their id. Keep the one of val2014.")
    return [files[one.key][0] for one in captions]


def moments_of(
    files: Sequence[Path], extractor: FeatureExtractor, advance: Callable[[int], None], *, device: str = "cpu"
) -> Gaussian:
    """Mean and covariance of the features of image files of any size.

    Args:
        files: two or more images.
        extractor: on `device`.
        advance: told how many images are done.
        device: torch device.

    Raises:
        DataError: an image cannot be decoded.
    """
    parts = []
    for start in range(0, len(files), _TOGETHER):
        images = [_pixels(path) for path in files[start : start + _TOGETHER]]
        parts.append(fidelity.features(extractor, images, device=device))
        advance(len(images))
    return fidelity.moments(np.concatenate(parts))


def _pixels(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        return np.asarray(open_image(path))
    except DataError as error:
        raise DataError(f"{path}: {error} Unpack it from val2014.zip again.") from error
