"""The same layers by faster kernels on the CPU; values differ by rounding alone.

MKL's products of few rows wait for memory and GELU's tanh is slow, together half the time of a small model. Without
gradients (inference mode) products go to oneDNN with weights in its own layout, GELU within them; where gradients
are taken GELU is written as x * sigmoid(2u), which is x/2 * (1 + tanh u). On GPUs nothing changes.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.phi.modeling_phi import PhiMLP

_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715

Activation = Literal["none", "gelu"]


def quicken(model: nn.Module) -> None:
    """Let all products and Phi MLPs of a transformers model run by these kernels; parameters and their names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Product
        elif isinstance(module, PhiMLP):
            module.__class__ = Mlp


class Mlp(PhiMLP):
    """`PhiMLP` with GELU in its tanh form."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        if isinstance(self.fc1, Product):
            return self.fc2(self.fc1.product(hidden_states, "gelu"))
        return self.fc2(gelu(self.fc1(hidden_states)))  # with adapters around it


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
    """Weights in oneDNN's own layout, made anew when they have changed."""

    _ROWS = 256  # that the layout is made for; it serves any number

    def __init__(self) -> None:
        self._of: tuple[int, int] | None = None
        self._weights: Tensor | None = None

    def of(self, weight: Tensor) -> Tensor:
        """Of (out, in) weights."""
        state = weight._version, weight.data_ptr()
        if self._of != state:
            self._weights = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), self._ROWS)
            self._of = state
        assert self._weights is not None
        return self._weights

    def __reduce__(self) -> tuple[type[Layout], tuple[()]]:
        return Layout, ()  # a copy makes its own


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, activation: Activation = "none") -> Tensor:
    """`torch.nn.functional.linear` and an activation."""
    if by_onednn(x) and not weight.is_inference():  # such weights do not tell whether they have changed
        return torch.ops.mkldnn._linear_pointwise(x, layout.of(weight), bias, activation, [], "tanh")
    found = F.linear(x, weight, bias)
    return gelu(found) if activation == "gelu" else found


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (gelu_new)."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    return _Gelu.apply(x)  # type: ignore[no-any-return]


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        square = torch.square(x)
        gate = torch.mul(square, _CUBIC * _SLOPE).add_(_SLOPE).mul_(x).sigmoid_()
        if ctx.needs_input_grad[0]:
            rest = square.mul_(3 * _CUBIC * _SLOPE).add_(_SLOPE).mul_(x)  # x times the slope of 2u
            slope = torch.addcmul(rest, rest, gate, value=-1).add_(1).mul_(gate)
            ctx.save_for_backward(slope)  # as large as x, which is not kept
        return gate.mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        [slope] = ctx.saved_tensors
        return slope * gradients[0]


def by_onednn(x: Tensor) -> bool:
    """Whether products of x go to oneDNN."""
    return (
        torch.is_inference_mode_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
