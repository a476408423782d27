"""What statistics for the Frechet distance were made from: noted in their file, looked at before they are used.

Statistics of other images than the caption list's, or by another Inception, give a distance like any other number.
`hermesflow fid-reference` notes both beside mu and sigma; pytorch-fid and clean-fid leave such arrays unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hermesflow.config.sections import Source
from hermesflow.core.errors import DataError
from hermesflow.core.files import sha256
from hermesflow.evaluation.graders import fidelity
from hermesflow.evaluation.graders.fidelity import Caption

_IMAGES, _NETWORK = fidelity.NOTES
_AGAIN = "Make them again by `hermesflow fid-reference` (docs/dpg-and-coco.md)."


def origin(captions: Sequence[Caption], inception: Source) -> dict[str, np.ndarray]:
    """Arrays that say what statistics were made from: ids of the images, in order, and the network's sha256."""
    return {
        _IMAGES: np.array([one.image_id for one in captions], dtype=np.int64),
        _NETWORK: np.array(list(inception.files.values()), dtype=np.str_),
    }


def check_reference(path: Path, captions: Sequence[Caption], inception: Source) -> str:
    """Compare what statistics say they were made from with the list of captions and the network of now.

    Args:
        path: `.npz` as `fidelity.read_reference` reads it.
        captions: images are drawn for them.
        inception: the network that sees the drawn images.

    Returns:
        The file, its sha256 and its origin, in words for the notes of a table.

    Raises:
        DataError: no statistics, of other images or by another network; statistics without notes are let pass.
    """
    noted, wanted = fidelity.read_reference(path).notes, origin(captions, inception)
    if len(noted) < len(wanted):
        return f"{path} (sha256 {sha256(path)}; made elsewhere, which images and which scaling is not known)"
    if len(differences := np.setxor1d(noted[_IMAGES], wanted[_IMAGES])):
        raise DataError(
            f"{path}: statistics of {len(noted[_IMAGES]):,} images, while the caption list has {len(captions):,}; "
            f"image {differences[0]} is in one of the two alone. {_AGAIN}"
        )
    if not np.array_equal(noted[_NETWORK], wanted[_NETWORK]):
        raise DataError(
            f"{path}: made by an Inception of sha256 {', '.join(noted[_NETWORK])}, while `benchmarks.coco.inception` "
            f"pins {', '.join(map(str, inception.files.values()))}. Pin that one. Or: {_AGAIN}"
        )
    return f"{path} (sha256 {sha256(path)}; of the list's {len(captions):,} real images)"
