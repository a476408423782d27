"""Values that are nan or infinite, refused where they arise: comparisons, maxima and sorts take them without a word."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from hermesflow.core.errors import ArtifactError, NotFiniteError


def check_finite(values: Tensor, what: Callable[[int], str]) -> None:
    """Refuse rows that hold a value that is not finite.

    Args:
        values: (N, ...) float.
        what: names row i for the error.

    Raises:
        NotFiniteError: names the first such row and their number.
    """
    finite = values.isfinite()
    if not values.is_meta and not finite.all():
        rows = (~finite.reshape(len(values), -1).all(dim=1)).nonzero()[:, 0].tolist()
        raise NotFiniteError(f"{what(rows[0])} is nan or infinite ({len(rows):,} of {len(values):,} such).")


def check_weights(tensors: Iterable[tuple[str, Tensor]], where: str, mend: str) -> None:
    """Refuse weights with a value that is not finite; one sum per tensor.

    Args:
        tensors: names and tensors; those that are not floating point pass.
        where: file or folder, for the error.
        mend: what to do about it.

    Raises:
        ArtifactError: names the first such tensor.
    """
    for name, tensor in tensors:
        if not tensor.is_floating_point() or tensor.is_meta or tensor.sum(dtype=torch.float32).isfinite():
            continue
        if wrong := int((~tensor.isfinite()).sum()):  # else the sum alone is too large
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ArtifactError(
                f"{where}: tensor `{name}` holds {wrong:,} values that are nan or infinite in {kind}. {mend}"
            )


def clip_gradients(model: nn.Module, max_norm: float | None) -> float:
    """Clip gradients to a norm, or refuse them before an optimizer step spreads what is not finite to all weights.

    Args:
        model: whose parameters have gradients; they may be sharded (DTensor).
        max_norm: None clips nothing.

    Returns:
        The norm before clipping, over all processes.

    Raises:
        NotFiniteError: names the parameter; neither weights nor gradients were changed.
    """
    trained = {name: p for name, p in model.named_parameters() if p.grad is not None}
    norm = nn.utils.get_total_norm([p.grad for p in trained.values() if p.grad is not None])
    value = float(norm)
    if not math.isfinite(value):
        peaks = {name: _peak(p.grad) for name, p in trained.items() if p.grad is not None}
        wrong = [name for name, peak in peaks.items() if not math.isfinite(peak)] or [max(peaks, key=peaks.__getitem__)]
        first = wrong[0].removeprefix("module.").removeprefix("model.")
        raise NotFiniteError(
            f"the norm of the gradients is {value}: that of parameter `{first}` has the largest value "
            f"{peaks[wrong[0]]} ({len(wrong):,} such of {len(peaks):,} parameters). No weight was changed."
        )
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(trained.values(), max_norm, norm)
    return value


def _peak(gradient: Tensor) -> float:
    whole: Tensor = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return float(whole.abs().max())
