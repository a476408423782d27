"""Images as codes of an image tokenizer: what families that generate codes share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from hermesflow.config.experiment import Config, as_plain
from hermesflow.config.sections import ImageTokenizer
from hermesflow.core.errors import ArtifactError, naming
from hermesflow.core.files import read_json, read_weights, write_json, write_weights
from hermesflow.core.finite import check_finite
from hermesflow.core.images import PIXELS_TOGETHER, ImageForm
from hermesflow.models.loading import fill, moved, without_weights


def to_pixels(images: np.ndarray) -> Tensor:
    """Images as network input.

    Args:
        images: (N, H, W, 3) uint8.

    Returns:
        (N, 3, H, W) float32 in [-1, 1].
    """
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def to_images(pixels: Tensor) -> np.ndarray:
    """Network output as images; values outside [-1, 1] are clipped.

    Args:
        pixels: (N, 3, H, W) float.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        NotFiniteError: a pixel is not.
    """
    scaled = pixels.detach().float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round()
    check_finite(scaled.sum(dim=(1, 2, 3)), "image {} made of codes".format)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


class Reconstruction(NamedTuple):
    """What one training forward gives."""

    pixels: Tensor
    """(B, 3, H, W) float."""
    latents: Tensor
    """(B, bits, h, w), before they are looked up, of length sqrt(bits) at every position."""
    entropy_loss: Tensor
    """Scalar, nats."""
    commitment_loss: Tensor
    """Scalar, mean squared distance of latents to their codes."""


def image_form(image_size: int, tokenizer: ImageTokenizer) -> ImageForm:
    """(T,) codes of an image of `image_size` pixels a side."""
    token_size = tokenizer.patch_size * 2 ** (len(tokenizer.encoder_multipliers) - 1)
    return ImageForm("codes", ((image_size // token_size) ** 2,), "uint16")


class CodesCodec:
    """Implements `backbone.ImageCodec`: an image is (T,) codes for both skills, unless a family sees it otherwise.

    Args:
        network: the image tokenizer, in evaluation mode.
        image_size: pixels per side.
    """

    family: str
    network_class: Any
    """Makes the image tokenizer from the sizes of one."""

    def __init__(self, network: Any, image_size: int) -> None:
        self.network, self.image_size = network, image_size
        self.seen = self.generated = image_form(image_size, network.config)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Tensor:
        """Codes, (N, T) int64 on the CPU, of (N, H, W, 3) uint8 images."""
        together = max(PIXELS_TOGETHER // max(images.shape[1] * images.shape[2], 1), 1)
        parts = [
            self.network.encode(to_pixels(images[start : start + together]).to(self._device)).cpu()
            for start in range(0, len(images), together)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, *self.generated.shape, dtype=torch.int64)

    def see(self, images: np.ndarray) -> Tensor:
        """The codes, as `encode`."""
        return self.encode(images)

    def see_generated(self, images: Tensor) -> Tensor:
        """The codes as they are."""
        return images

    @torch.inference_mode()
    def to_pixels(self, images: Tensor) -> np.ndarray:
        """(N, H, W, 3) uint8 of (N, T) codes."""
        together = max(PIXELS_TOGETHER // (images.shape[1] * self.network.token_size**2), 1)
        parts = images.long().split(together)
        with naming("image tokenizer", "Delete the folder tokenizer/ and run snakemake again."):
            return np.concatenate([to_images(self.network.decode(part.to(self._device)).cpu()) for part in parts])

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""
        write_weights(folder / "model.safetensors", self.network.state_dict())
        self.describe(folder)

    def describe(self, folder: Path) -> None:
        """Write `config.json`."""
        sizes = {key: value for key, value in as_plain(self.network.config).items() if value is not None}
        plain = {"family": self.family, "image_size": self.image_size, "image_tokenizer": sizes}
        write_json(folder / "config.json", plain)

    @classmethod
    def meta(cls, config: Config) -> Self:
        """A codec without weights."""
        with torch.device("meta"):
            return cls(cls.network_class(config.image_tokenizer), config.data.image_size)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: a file is missing or truncated, the weights are a pickle, or do not fit `config.json`.
        """
        folder = Path(folder)
        plain = read_json(folder / "config.json")
        weights = read_weights(folder / "model.safetensors")
        try:
            sizes = plain["image_tokenizer"]
            lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
            with without_weights():
                network = cls.network_class(ImageTokenizer(**lists))
            fill(network, weights)
            image_size = int(plain["image_size"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ArtifactError(
                f"{folder}: model.safetensors does not fit config.json ({error}). Give both files of one tokenizer, "
                "or delete the folder and run snakemake again."
            ) from error
        return cls(moved(network, device), image_size)
