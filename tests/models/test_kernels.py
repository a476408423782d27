"""The CPU's kernels against transformers' own layers: values, gradients, the same bits with and without gradients."""

import copy
import json
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PhiConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi.modeling_phi import PhiMLP

from hermesflow.core import processor
from hermesflow.core.files import write_manifest
from hermesflow.models import kernels
from hermesflow.models.kernels import Mlp, Product, quicken
from hermesflow.models.logps import token_logps

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
KERNELS = ("blas", "onednn")
SIZES = {"hidden_size": 24, "intermediate_size": 96, "num_attention_heads": 4}
MLPS = {
    "phi": lambda: PhiMLP(PhiConfig(**SIZES, hidden_act="gelu_pytorch_tanh")),
    "llama": lambda: LlamaMLP(LlamaConfig(**SIZES)),  # of Janus; Emu3's is the same
}


@pytest.fixture(autouse=True)
def rule():
    """Every test leaves the rule in force."""
    yield
    processor.use_matrix_kernel(None)


@pytest.fixture(params=KERNELS)
def kernel(request):
    processor.use_matrix_kernel(request.param)
    return request.param


@pytest.fixture
def products():
    """Shapes of all that oneDNN multiplies, (rows, in, out)."""
    shapes, linear_pointwise = [], torch.ops.mkldnn._linear_pointwise

    def spy(x, weight, *others):
        y = linear_pointwise(x, weight, *others)
        shapes.append((y.numel() // y.shape[-1], x.shape[-1], y.shape[-1]))
        return y

    with patch.object(torch.ops.mkldnn, "_linear_pointwise", spy):
        yield shapes


@pytest.fixture(params=MLPS)
def layers(request):
    """An MLP of transformers, and the same one quickened."""
    torch.manual_seed(0)
    plain = MLPS[request.param]()
    quick = copy.deepcopy(plain)
    quicken(parent := nn.ModuleList([quick]))
    assert (type(parent[0]) is Mlp) == (request.param == "phi")
    assert {type(module) for module in quick.modules() if isinstance(module, nn.Linear)} == {Product}
    return plain, quick


def states():
    return torch.randn(1, 50, 24, generator=torch.Generator().manual_seed(1)) * 3


def test_values_and_gradients_are_those_of_transformers(layers, kernel):
    found = []
    for layer in layers:
        x = states().requires_grad_()
        y = layer(x)
        (y * y).sum().backward()
        found.append([y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(one.abs().max()), rtol=1e-5)


def test_with_and_without_gradients_to_the_last_bit(layers, kernel):
    _, quick = layers
    with torch.no_grad():
        known = quick(states())
    assert torch.equal(known, quick(states()).detach())
    assert torch.equal(known, quick(states().requires_grad_()).detach())


def test_new_weights_are_seen_where_nothing_is_trained(layers, kernel):
    for _ in range(2):
        with torch.inference_mode():
            one, other = (layer(states()) for layer in layers)
            torch.testing.assert_close(one, other, **CLOSE)
        with torch.no_grad():
            for layer in layers:
                next(layer.parameters()).add_(0.1)


def test_frozen_weights_get_no_gradient(layers, kernel):
    _, quick = layers
    quick.requires_grad_(False)
    x = states().requires_grad_()
    quick(x).sum().backward()
    assert x.grad is not None and all(parameter.grad is None for parameter in quick.parameters())


def test_outputs_and_both_gradients_are_of_one_kernel(layers, products):
    processor.use_matrix_kernel("onednn")
    _, quick = layers
    quick(states().requires_grad_()).sum().backward()
    up, down = (50, 24, 96), (50, 96, 24)
    to_weight = {up: (96, 50, 24), down: (24, 50, 96)}
    to_input = {up: down, down: up}
    shapes = [up if module.in_features == 24 else down for module in quick.modules() if type(module) is Product]
    assert sorted(products) == sorted([one for shape in shapes for one in (shape, to_input[shape], to_weight[shape])])


def head_gradients(kernel, *, bias=True):
    processor.use_matrix_kernel(kernel)
    head = nn.Linear(24, 37, bias=bias)
    with torch.no_grad():
        for k, parameter in enumerate(head.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k)))
    hidden = states()[0].requires_grad_()
    logps = token_logps(hidden, torch.arange(50) % 37, head)
    logps.sum().backward()
    return logps.detach(), hidden.grad, *(parameter.grad for parameter in head.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_is_of_the_same_kernel(products, bias):
    by_onednn = head_gradients("onednn", bias=bias)
    assert sorted(products) == sorted([(50, 24, 37), (50, 37, 24), (37, 50, 24)])
    products.clear()
    by_blas = head_gradients("blas", bias=bias)
    assert not products
    for one, other in zip(by_blas, by_onednn, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(one.abs().max()), rtol=1e-5)


def test_weights_are_laid_out_anew_when_the_kernel_changes(layers):
    plain, quick = layers
    for name in KERNELS:
        processor.use_matrix_kernel(name)
        with torch.inference_mode():
            torch.testing.assert_close(quick(states()), plain(states()), **CLOSE)


CPUINFO = "processor : 0\nvendor_id : {vendor}\nflags : fpu {flags}\n\n"


@pytest.mark.parametrize(
    ("vendor", "flags", "name", "kernel"),
    [
        ("GenuineIntel", "avx avx2 avx512f", "GenuineIntel avx512f", "blas"),
        ("GenuineIntel", "avx avx2", "GenuineIntel avx2", "blas"),
        ("AuthenticAMD", "avx avx2 avx512f", "AuthenticAMD avx512f", "onednn"),
        ("AuthenticAMD", "sse2", "AuthenticAMD", "onednn"),
    ],
)
def test_the_kernel_is_a_rule_of_the_processor(monkeypatch, tmp_path, vendor, flags, name, kernel):
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(vendor=vendor, flags=flags) * 2)
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    processor.processor.cache_clear()
    processor.use_matrix_kernel(None)
    try:
        assert (processor.processor(), processor.matrix_kernel()) == (name, kernel)
    finally:
        processor.processor.cache_clear()


def test_a_config_overrides_the_rule_and_manifests_say_so(tmp_path):
    other = next(name for name in KERNELS if name != processor.matrix_kernel())
    processor.use_matrix_kernel(other)
    write_manifest(tmp_path, config={}, inputs=[])
    assert json.loads((tmp_path / "manifest.json").read_text())["matrix_kernel"].startswith(f"{other} on ")
    assert kernels.by_onednn(torch.ones(1)) == (other == "onednn")
