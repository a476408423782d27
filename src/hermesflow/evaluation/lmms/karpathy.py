"""The images of the task `flickr30k_karpathy`; all else in it is lmms-eval's own Flickr30k."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hermesflow.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = "HERMESFLOW_FLICKR30K_SPLITS"
"""Environment variable with the path of Karpathy's dataset_flickr30k.json."""


def test_images(records: Dataset) -> Dataset:
    """The records whose `filename` is in the split `test`.

    Raises:
        ConfigError: the variable SPLITS names no file.
        DataError: the file is not Karpathy's, or some of its test images are not among the records.

    Source: Karpathy and Fei-Fei 2015; the file is in the authors' caption_datasets.zip.
    """
    path = Path(os.environ.get(SPLITS, ""))
    if not path.is_file():
        raise ConfigError(f"{SPLITS}={path}: no such file. Let it name dataset_flickr30k.json of Karpathy's splits.")
    wanted = read_test_names(path)
    places = [i for i, name in enumerate(records["filename"]) if name in wanted]
    if len(places) != len(wanted):
        missing = sorted(wanted - set(records["filename"]))
        raise DataError(
            f"{path}: {len(missing)} of {len(wanted)} test images are not in the data set, the first is {missing[:1]}. "
            "Give both of one Flickr30k."
        )
    return records.select(places)


def read_test_names(path: Path) -> set[str]:
    """Names of the image files of the split `test`.

    Raises:
        DataError: not JSON of the form {"images": [{"filename", "split"}, ..]}, or no image is in the split.
    """
    try:
        images = json.loads(path.read_text())["images"]
        names = {str(image["filename"]) for image in images if image["split"] == "test"}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: not Karpathy's split file ({error!r}). Take dataset_flickr30k.json itself."
        ) from error
    if not names:
        raise DataError(f"{path}: no image is in the split `test`. Take Karpathy's dataset_flickr30k.json itself.")
    return names
