"""A checkpoint as an MLflow model: it describes images and generates them.

    model = mlflow.pyfunc.load_model("runs:/RUN_ID/model")
    model.predict(pandas.DataFrame({"image": [Path("cat.png").read_bytes()]}))        # column `caption`
    model.predict(pandas.DataFrame({"prompt": ["a red circle"]}), params={"seed": 3})  # column `image`, PNG bytes

MLflow keeps a reference to the folders of weights in results/, not a copy: released models have gigabytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hermesflow.config.sections import Decoding, ImageSampling
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import read_json
from hermesflow.core.images import as_stored
from hermesflow.core.seeding import generator
from hermesflow.data.images import fit_image
from hermesflow.models.backbone import ImageCodec, UnifiedModel, load_codec, load_model
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.tracking.results import fingerprint


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What `mlflow.pyfunc.load_model` runs."""

    model: UnifiedModel
    codec: ImageCodec
    sampling: ImageSampling
    max_new_tokens: int

    def predict(self, inputs: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Describe the images of column `image`, or generate one image for each text of column `prompt`.

        Args:
            inputs: `image` has the bytes of image files, of any size; `prompt` has texts.
            params: `seed` of the images.

        Returns:
            Column `caption`, greedily decoded, or column `image`, PNG bytes; the index is that of `inputs`.

        Raises:
            DataError: an image cannot be decoded.
        """
        if "image" in inputs:
            return pd.DataFrame({"caption": self._describe(list(inputs["image"]))}, index=inputs.index)
        images = self._generate([str(prompt) for prompt in inputs["prompt"]], int((params or {}).get("seed", 0)))
        return pd.DataFrame({"image": images}, index=inputs.index)

    def _describe(self, files: Sequence[bytes]) -> list[str]:
        fitted = (io.BytesIO(fit_image(file, self.codec.image_size).png) for file in files)
        pixels = np.stack([np.asarray(Image.open(file)) for file in fitted])
        return sample_texts(
            self.model,
            as_stored(self.codec.see(pixels), self.model.seen).to(self.model.device),
            torch.arange(len(files)),
            [self.model.caption_prompt] * len(files),
            decodings=[Decoding(top_k=1, temperature=1.0)] * len(files),
            max_new_tokens=self.max_new_tokens,
            generators=[generator("describe", i) for i in range(len(files))],
        )

    def _generate(self, prompts: Sequence[str], seed: int) -> list[bytes]:
        generators = [generator(seed, "generate", i) for i in range(len(prompts))]
        with self.model.naming():
            generated = self.model.generate_images(prompts, settings=self.sampling, generators=generators)
        generated = as_stored(generated, self.model.generated)
        files = []
        for pixels in self.codec.to_pixels(generated):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, format="PNG")
            files.append(file.getvalue())
        return files


def _load_pyfunc(path: str) -> LoadedCheckpoint:
    """Called by MLflow with the path of the reference.

    Raises:
        ArtifactError: the weights are missing, or no longer those that were logged.
    """
    reference = read_json(Path(path))
    folder = Path(reference["model"])
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: is missing. MLflow keeps a reference to the weights: load the model where the results are "
            "(`dvc checkout` restores them)."
        )
    if fingerprint(folder) != reference["fingerprint"]:
        raise ArtifactError(
            f"{folder}: was trained again since this model was logged. Load the model of the newer run, or restore "
            "the earlier results (`dvc checkout`)."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LoadedCheckpoint(
        load_model(folder, device=device),
        load_codec(Path(reference["tokenizer"]), device=device),
        ImageSampling(**reference["sampling"]),
        int(reference["max_new_tokens"]),
    )
