"""The CPU's kernels against transformers' own layers: values, gradients, the same bits with and without gradients."""

import copy

import pytest
import torch
from torch import nn
from transformers import PhiConfig
from transformers.models.phi.modeling_phi import PhiMLP

from hermesflow.models.kernels import Mlp, Product, gelu, quicken

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def layers():
    """An MLP of transformers, and the same one quickened."""
    torch.manual_seed(0)
    plain = PhiMLP(PhiConfig(hidden_size=24, intermediate_size=96, hidden_act="gelu_pytorch_tanh"))
    quick = copy.deepcopy(plain)
    quicken(parent := nn.ModuleList([quick]))
    assert type(parent[0]) is Mlp and type(parent[0].fc1) is type(parent[0].fc2) is Product
    return plain, quick


def states():
    return torch.randn(1, 50, 24, generator=torch.Generator().manual_seed(1)) * 3


def test_values_and_gradients_are_those_of_transformers(layers):
    found = []
    for layer in layers:
        x = states().requires_grad_()
        y = layer(x)
        (y * y).sum().backward()
        found.append([y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(one.abs().max()), rtol=1e-5)


def test_with_and_without_gradients_to_the_last_bit(layers):
    _, quick = layers
    with torch.no_grad():
        known = quick(states())
    assert torch.equal(known, quick(states()).detach())
    assert torch.equal(known, quick(states().requires_grad_()).detach())


def test_new_weights_are_seen_where_nothing_is_trained(layers):
    plain, quick = layers
    for _ in range(2):
        with torch.inference_mode():
            torch.testing.assert_close(quick(states()), plain(states()), **CLOSE)
        with torch.no_grad():
            for layer in layers:
                layer.fc1.weight.add_(0.1)


def test_frozen_weights_get_no_gradient(layers):
    _, quick = layers
    quick.requires_grad_(False)
    x = states().requires_grad_()
    quick(x).sum().backward()
    assert x.grad is not None and all(parameter.grad is None for parameter in quick.parameters())


def test_gelu_is_torchs_tanh_form():
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    one, other = x.float().requires_grad_(), x.clone().requires_grad_()
    values, wanted = gelu(one), nn.functional.gelu(other, approximate="tanh")
    values.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(values.double(), wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(one.grad.double(), other.grad, atol=1e-5, rtol=1e-5)
