"""Stage `encode`: every real image once, as understanding reads it and as generation is pre-trained on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hermesflow.config.experiment import Config
from hermesflow.core.errors import NotFiniteError, naming
from hermesflow.core.files import Layout
from hermesflow.core.images import PIXELS_TOGETHER, ImageForm, read_images, write_images
from hermesflow.core.progress import Progress
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.models.backbone import load_codec

SPLITS = ("base", "pairs", "gap", "understanding")
MEND = "Nothing was written. Look at the image; if it is sound, make the image tokenizer (stage tokenizer) anew."


def run(config: Config, layout: Layout) -> None:
    """Write `images/seen/{split}.npy`, (N, 1, *seen), and `images/generated/base.npy`, (N, 1, *generated).

    Raises:
        NotFiniteError: a latent of an image is not.
    """
    torch.set_num_threads(config.runtime.tokenizer_threads)
    codec = load_codec(layout.tokenizer, device=torch.device(config.runtime.device))
    size = max(PIXELS_TOGETHER // codec.image_size**2, 1)

    def write(split: str, path: Path, encode: Callable[[np.ndarray], Tensor], form: ImageForm, what: str) -> None:
        pairs = read_pairs(layout.data(split))
        progress, parts = Progress(len(pairs), f"images of {split} as they are {what}", "image"), [form.empty(0)]
        for start in range(0, len(pairs), size):
            rows = pairs.select(range(start, min(start + size, len(pairs))))
            try:
                parts.append(encode(images_of(rows)).numpy())
            except NotFiniteError:
                for place, pair_id in enumerate(rows["id"]):  # which image is it?
                    with naming(f"{layout.data(split)}, pair `{pair_id}`", MEND):
                        encode(images_of(rows.select([place])))
                raise
            progress.advance(len(rows))
        write_images(path, list(pairs["id"]), np.concatenate(parts)[:, None], form)

    for split in SPLITS:
        write(split, layout.seen(split), codec.see, codec.seen, "seen")
    if codec.seen == codec.generated:  # then they are the same arrays
        write_images(layout.generated, *read_images(layout.seen("base")), codec.generated)
    else:
        write("base", layout.generated, codec.encode, codec.generated, "generated")
