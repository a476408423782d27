"""The Inception network behind published Frechet distances, without torchvision and without unpickling.

This is the TensorFlow network of 2015 as pytorch-fid released it (`pt_inception-2015-12-05-6726825d.pth`; the same
parameters are torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`): Inception v3 with pools that leave
padding out of the mean, and a maximum in the last block. torch-fidelity, which torchmetrics would use, unpickles the
weights and needs torchvision; its names of the parameters are kept here, so that its file fits.

Source: Szegedy et al. 2015 (Inception v3); Heusel et al. 2017 (its use for the Frechet distance).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hermesflow.config.sections import Source
from hermesflow.core import hub
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.core.files import read_weights
from hermesflow.models.conversion import read_pickle

SIDE = 299
"""Pixels per side of the network's input."""


class _Step(NamedTuple):
    """One convolution of a path."""

    name: str
    out: int
    kernel: tuple[int, int] = (1, 1)
    halves: bool = False


class _Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, step: _Step, *, padded: bool = True) -> None:
        super().__init__()
        padding = (step.kernel[0] // 2, step.kernel[1] // 2) if padded and not step.halves else 0
        stride = 2 if step.halves else 1
        self.conv = nn.Conv2d(channels, step.out, step.kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(step.out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Paths side by side, and a pool: their outputs are put together along the channels.

    Args:
        channels: of the input.
        paths: each a sequence of convolutions; a list stands for convolutions side by side.
        pool: a mean or maximum that keeps the size, or a maximum that `halves` it.
        pooled: channels that the pool's output is projected to; 0 leaves it as it is.
    """

    def __init__(
        self,
        channels: int,
        paths: Sequence[Sequence[_Step | list[_Step]]],
        *,
        pool: Literal["mean", "maximum", "halves"],
        pooled: int = 0,
    ) -> None:
        super().__init__()
        self._paths: list[list[list[str]]] = []
        for path in paths:
            width, names = channels, []
            for step in path:
                together = step if isinstance(step, list) else [step]
                for one in together:
                    self.add_module(one.name, _Convolution(width, one))
                names.append([one.name for one in together])
                width = sum(one.out for one in together)
            self._paths.append(names)
        self._pool = pool
        self.branch_pool = _Convolution(channels, _Step("branch_pool", pooled)) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for path in self._paths:
            y = x
            for names in path:
                y = torch.cat([self.get_submodule(name)(y) for name in names], dim=1)
            parts.append(y)
        if self._pool == "mean":
            y = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        else:
            y = F.max_pool2d(x, 3, stride=2) if self._pool == "halves" else F.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([*parts, self.branch_pool(y)], dim=1)


def _block_a(channels: int, pooled: int) -> _Mixed:
    path = [_Step("branch3x3dbl_1", 64), _Step("branch3x3dbl_2", 96, (3, 3)), _Step("branch3x3dbl_3", 96, (3, 3))]
    wide = [_Step("branch5x5_1", 48), _Step("branch5x5_2", 64, (5, 5))]
    return _Mixed(channels, [[_Step("branch1x1", 64)], wide, path], pool="mean", pooled=pooled)


def _block_b() -> _Mixed:
    path = [_Step("branch3x3dbl_1", 64), _Step("branch3x3dbl_2", 96, (3, 3)), _Step("branch3x3dbl_3", 96, (3, 3), True)]
    return _Mixed(288, [[_Step("branch3x3", 384, (3, 3), True)], path], pool="halves")


def _block_c(width: int) -> _Mixed:
    short = [_Step("branch7x7_1", width), _Step("branch7x7_2", width, (1, 7)), _Step("branch7x7_3", 192, (7, 1))]
    kernels = ((1, 1), (7, 1), (1, 7), (7, 1))
    long = [_Step(f"branch7x7dbl_{i}", width, kernel) for i, kernel in enumerate(kernels, start=1)]
    long.append(_Step("branch7x7dbl_5", 192, (1, 7)))
    return _Mixed(768, [[_Step("branch1x1", 192)], short, long], pool="mean", pooled=192)


def _block_d() -> _Mixed:
    short = [_Step("branch3x3_1", 192), _Step("branch3x3_2", 320, (3, 3), True)]
    kernels = ((1, 1), (1, 7), (7, 1))
    long = [_Step(f"branch7x7x3_{i}", 192, kernel) for i, kernel in enumerate(kernels, start=1)]
    long.append(_Step("branch7x7x3_4", 192, (3, 3), True))
    return _Mixed(768, [short, long], pool="halves")


def _block_e(channels: int, pool: Literal["mean", "maximum"]) -> _Mixed:
    def fork(stem: str) -> _Step | list[_Step]:
        return [_Step(f"{stem}a", 384, (1, 3)), _Step(f"{stem}b", 384, (3, 1))]

    short = [_Step("branch3x3_1", 384), fork("branch3x3_2")]
    long = [_Step("branch3x3dbl_1", 448), _Step("branch3x3dbl_2", 384, (3, 3)), fork("branch3x3dbl_3")]
    return _Mixed(channels, [[_Step("branch1x1", 320)], short, long], pool=pool, pooled=192)


class Inception(nn.Module):
    """Features for the Frechet distance: the 2048 channel means of the last block."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, _Step("", 32, (3, 3), True))
        self.Conv2d_2a_3x3 = _Convolution(32, _Step("", 32, (3, 3)), padded=False)
        self.Conv2d_2b_3x3 = _Convolution(32, _Step("", 64, (3, 3)))
        self.Conv2d_3b_1x1 = _Convolution(64, _Step("", 80))
        self.Conv2d_4a_3x3 = _Convolution(80, _Step("", 192, (3, 3)), padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_a(192, 32), _block_a(256, 64), _block_a(288, 64)
        self.Mixed_6a = _block_b()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(_block_c, (128, 160, 160, 192))
        self.Mixed_7a = _block_d()
        self.Mixed_7b, self.Mixed_7c = _block_e(1280, "mean"), _block_e(2048, "maximum")

    def forward(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: (N, 3, 299, 299) float, 0 to 255.

        Returns:
            (N, 2048) float.
        """
        x = (images - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(dim=(2, 3))


def load_inception(source: Source, *, device: str = "cpu") -> Inception:
    """Read the released weights, in eval mode.

    Args:
        source: one file, with its sha256: pytorch-fid's `.pth`, or the same tensors as safetensors. A `.pth` is read
            as tensors alone; nothing in it is run.
        device: torch device.

    Raises:
        ConfigError: not exactly one file, or no sha256.
        FetchError: the file is missing, or is not the pinned one.
        ArtifactError: it does not hold the network.
    """
    if len(source.files) != 1 or None in source.files.values():
        raise ConfigError(
            f"Inception weights: `files` must name one file and its sha256, not {source.files}. Download "
            "pt_inception-2015-12-05-6726825d.pth of pytorch-fid and let `hermesflow fetch --pin` print its sha256."
        )
    path = hub.fetch(source) / next(iter(source.files))
    tensors = read_weights(path) if path.suffix == ".safetensors" else read_pickle(path)
    model = Inception()
    try:
        model.load_state_dict({name: value for name, value in tensors.items() if not name.startswith("fc.")})
    except (RuntimeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: does not hold pytorch-fid's Inception ({' '.join(str(error).split())[:200]}). Take "
            "pt_inception-2015-12-05-6726825d.pth."
        ) from error
    return model.to(device).eval()
