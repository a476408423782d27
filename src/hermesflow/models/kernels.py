"""Linear layers of float32 on the CPU by the processor's kernel (`core/processor.py`); elsewhere they are torch's.

Without training, weights are laid out once as the kernel reads them fastest: with few rows, reading them is what takes
the time. In training the same kernel makes outputs and both gradients, and Phi's GELU is computed again for the
gradient instead of being kept, which saves a seventh of the memory. Values differ from torch's by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.phi.modeling_phi import PhiMLP

from hermesflow.core.processor import MatrixKernel, matrix_kernel

Activation = Literal["none", "gelu"]


def quicken(model: nn.Module) -> None:
    """Let all linear layers and Phi MLPs of a transformers model run by these kernels; parameters and names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Product
        elif isinstance(module, PhiMLP):
            module.__class__ = Mlp


class Mlp(PhiMLP):
    """`PhiMLP` with GELU in its tanh form."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        plain = isinstance(self.fc1, Product) and isinstance(self.fc2, Product)  # no adapters around them
        if not plain or not is_float32_on_cpu(hidden_states):
            return self.fc2(_activated(self.fc1(hidden_states), "gelu"))
        if torch.is_inference_mode_enabled():
            return self.fc2(self.fc1.product(hidden_states, "gelu"))
        return _Linear.apply(self.fc1(hidden_states), self.fc2.weight, self.fc2.bias, "gelu")


class Product(nn.Linear):
    """`nn.Linear`."""

    _layout: Layout | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return self.product(input, "none")

    def product(self, input: Tensor, activation: Activation) -> Tensor:
        """The same, with an activation behind it."""
        if self._layout is None:
            self._layout = Layout()
        return linear(input, self.weight, self.bias, self._layout, activation)


class Layout:
    """Weights as the kernel reads them fastest, laid out again when they have changed."""

    _ROWS = 256  # that oneDNN's layout is made for; it serves any number

    def __init__(self) -> None:
        self._state: tuple[int, int, bool] | None = None
        self._weights: Tensor | None = None

    def of(self, weight: Tensor) -> Tensor:
        """Of (out, in) weights; `product` takes them in their stead."""
        is_onednn = by_onednn(weight)
        state = weight._version, weight.data_ptr(), is_onednn
        if self._state != state:
            plain = weight.detach()
            reorder = torch.ops.mkldnn._reorder_linear_weight
            self._weights = reorder(plain, self._ROWS) if is_onednn else plain.t().contiguous().t()
            self._state = state
        assert self._weights is not None
        return self._weights

    def __reduce__(self) -> tuple[type[Layout], tuple[()]]:
        return Layout, ()  # a copy makes its own


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, activation: Activation = "none") -> Tensor:
    """`torch.nn.functional.linear` and an activation."""
    inference = torch.is_inference_mode_enabled() and not weight.is_inference()  # such weights do not tell of changes
    if inference and is_float32_on_cpu(x):
        return product(x, layout.of(weight), bias, activation)
    y = _Linear.apply(x, weight, bias, "none") if by_onednn(x) else F.linear(x, weight, bias)
    return _activated(y, activation)


class _Linear(torch.autograd.Function):
    """Products of an activation's values that are the same with and without gradients, to the last bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.activation = activation
        return product(_activated(x, activation), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        [gradient], (x, weight) = gradients, ctx.saved_tensors
        rows, to_x, to_weight = gradient.flatten(0, -2), None, None
        if ctx.needs_input_grad[0]:
            to_x = product(gradient, weight.t())
            if ctx.activation == "gelu":
                torch.ops.aten.gelu_backward(to_x, x, approximate="tanh", grad_input=to_x)
        if ctx.needs_input_grad[1]:
            to_weight = product(rows.t(), _activated(x, ctx.activation).flatten(0, -2).t())
        return to_x, to_weight, rows.sum(dim=0) if ctx.needs_input_grad[2] else None, None


def blas(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """See `product`."""
    return _activated(F.linear(x, weight, bias), activation)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """See `product`. torch's private operator is the one that torch.compile uses."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "tanh")  # type: ignore[no-any-return]


KERNELS: dict[MatrixKernel, Callable[..., Tensor]] = {"blas": blas, "onednn": onednn}


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """Compute x @ weight.T + bias and an activation, without gradients; (out, in) weights, plain or of a `Layout`."""
    return KERNELS["onednn" if by_onednn(x) else "blas"](x, weight, bias, activation)


def _activated(x: Tensor, activation: Activation) -> Tensor:
    return F.gelu(x, approximate="tanh") if activation == "gelu" else x


def is_float32_on_cpu(x: Tensor) -> bool:
    """Whether products of x are made here."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def by_onednn(x: Tensor) -> bool:
    """Whether products of x are made by oneDNN; by BLAS where torch has none."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return matrix_kernel() == "onednn" and available and is_float32_on_cpu(x)
