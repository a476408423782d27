"""The same layers by faster kernels on the CPU; values differ by rounding alone.

MKL's products of few rows wait for memory, its larger ones stay a fifth below what the core can do, and GELU's tanh is
slow. Products go to oneDNN, which lays weights out its own way: once for all where nothing is trained (inference mode),
GELU within the product, else within every call. GELU with gradients is x * sigmoid(2u), which is x/2 * (1 + tanh u).
On GPUs nothing changes.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        if not isinstance(self.fc1, Product) or not isinstance(self.fc2, Product):  # with adapters around them
            return self.fc2(gelu(self.fc1(hidden_states)))
        if by_onednn(hidden_states) and not torch.is_inference_mode_enabled():
            return _GeluLinear.apply(self.fc1(hidden_states), self.fc2.weight, self.fc2.bias)
        return self.fc2(self.fc1.product(hidden_states, "gelu"))


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
    if not by_onednn(x):
        product = F.linear(x, weight, bias)
    elif torch.is_inference_mode_enabled() and not weight.is_inference():  # such weights do not tell of changes
        return _product(x, layout.of(weight), bias, activation)
    else:
        product = _Linear.apply(x, weight, bias)
    return gelu(product) if activation == "gelu" else product


class _Linear(torch.autograd.Function):
    """Products that are the same with and without gradients, to the last bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = _product(gradients[0], weight.t()) if ctx.needs_input_grad[0] else None
        return of_x, *_of_parameters(ctx, gradients[0], x)


class _GeluLinear(torch.autograd.Function):
    """`_Linear` behind GELU, which is computed again for the gradient instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(_gate(x, torch.square(x)).mul_(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        square = torch.square(x)
        gate = _gate(x, square)
        of_x = _slope(x, square, gate).mul_(_product(gradients[0], weight.t())) if ctx.needs_input_grad[0] else None
        return of_x, *_of_parameters(ctx, gradients[0], gate.mul_(x))


def _of_parameters(ctx: Any, gradient: Tensor, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias of a product of x."""
    rows = gradient.flatten(0, -2)
    return (
        torch.mm(rows.t(), x.flatten(0, -2)) if ctx.needs_input_grad[1] else None,  # oneDNN is slower here
        rows.sum(dim=0) if ctx.needs_input_grad[2] else None,
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """By oneDNN: x @ weight.T + bias, of (out, in) weights, plain or in its layout."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "tanh")


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (gelu_new)."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    return _Gelu.apply(x)  # type: ignore[no-any-return]


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        square = torch.square(x)
        gate = _gate(x, square)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(_slope(x, square, gate))  # as large as x, which is not kept
        return gate.mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        [slope] = ctx.saved_tensors
        return slope * gradients[0]


def _gate(x: Tensor, square: Tensor) -> Tensor:
    """What x is multiplied with: sigmoid(2u)."""
    return torch.mul(square, _CUBIC * _SLOPE).add_(_SLOPE).mul_(x).sigmoid_()


def _slope(x: Tensor, square: Tensor, gate: Tensor) -> Tensor:
    """GELU's derivative; overwrites `square`."""
    rest = square.mul_(3 * _CUBIC * _SLOPE).add_(_SLOPE).mul_(x)  # x times the slope of 2u
    return rest.addcmul_(rest, gate, value=-1).add_(1).mul_(gate)


def by_onednn(x: Tensor) -> bool:
    """Whether products of x go to oneDNN."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
