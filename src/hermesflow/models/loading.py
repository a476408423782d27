"""Models that get their weights from a file: built without any, so that none are drawn only to be thrown away."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from hermesflow.config.sections import Precision

DTYPES: dict[Precision, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Model = TypeVar("Model", bound=nn.Module)


def without_weights() -> AbstractContextManager[None]:
    """Models made inside have parameters without memory, and their buffers as ever."""
    return init_empty_weights(include_buffers=False)


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Let a model without weights have these as they lie in memory, or in a mapped file.

    Raises:
        RuntimeError: names or shapes are not those of the model.
    """
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    tensors = {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in weights.items()}
    model.load_state_dict(tensors, strict=True, assign=True)


def moved(model: Model, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Model:
    """The model with all tensors in memory of its own on a device, one after the other, in evaluation mode.

    Parameters take the type; buffers keep theirs, for rotary frequencies must not be rounded.

    Copies on the CPU too: where a tensor begins in a mapped file could change how its sums are rounded.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(device, dtype, copy=True)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device, copy=True)
    return model.eval()
