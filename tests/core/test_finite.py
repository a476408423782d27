"""Values that are nan or infinite are refused, named, and change nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hermesflow.core.errors import ArtifactError, NotFiniteError, naming
from hermesflow.core.finite import check_finite, check_weights, clip_gradients

WRONG = st.sampled_from([math.nan, math.inf, -math.inf])


def model_with_gradients(seed=0, scale=1.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    (model(torch.randn(4, 3)).sum() * scale).backward()
    return model


@given(WRONG, st.integers(0, 3), st.integers(0, 1), st.none() | st.floats(0.01, 10))
def test_the_parameter_whose_gradient_is_not_finite_is_named_and_nothing_is_changed(value, parameter, place, max_norm):
    model = model_with_gradients()
    name = list(dict(model.named_parameters()))[parameter]
    dict(model.named_parameters())[name].grad.view(-1)[place] = value
    before = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(NotFiniteError, match=f"parameter `{name}`"):
        clip_gradients(model, max_norm)
    torch.testing.assert_close([p.grad for p in model.parameters()], before, rtol=0, atol=0, equal_nan=True)


@given(st.sampled_from([1e-3, 1.0, 1e6]), st.floats(0.01, 10))
def test_finite_gradients_are_clipped_as_torch_does_it_to_the_last_bit(scale, max_norm):
    one, other, kept = (model_with_gradients(scale=scale) for _ in range(3))
    norm = clip_gradients(one, max_norm)
    assert norm == float(nn.utils.clip_grad_norm_(other.parameters(), max_norm))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    untouched = [p.grad.clone() for p in kept.parameters()]
    assert clip_gradients(kept, None) == norm
    assert all(torch.equal(p.grad, before) for p, before in zip(kept.parameters(), untouched, strict=True))


def test_a_norm_that_overflows_is_refused_though_all_values_are_finite():
    model = model_with_gradients()
    model[2].bias.grad.fill_(3e38)
    with pytest.raises(NotFiniteError, match=r"`2\.bias` has the largest value 3.*e\+38"):
        clip_gradients(model, 1.0)


def test_rows_are_named_by_the_first_and_counted():
    values = torch.zeros(4, 2)
    check_finite(values, "row {}".format)
    values[2, 1], values[3, 0] = math.nan, -math.inf
    text = r"step 3: row 2 is nan or infinite \(2 of 4 such\)\. Mend it\."
    with pytest.raises(NotFiniteError, match=text), naming("step 3", "Mend it."):
        check_finite(values, "row {}".format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_told_apart_from_sums_that_overflow(dtype):
    largest = torch.finfo(dtype).max
    good = {"codes": torch.tensor([1, 2]), "large": torch.tensor([largest, largest], dtype=dtype)}
    check_weights(good.items(), "here", "mend")
    with pytest.raises(ArtifactError, match=r"here: tensor `bad` holds 1 values that are nan or infinite.* mend"):
        check_weights({**good, "bad": torch.tensor([1.0, math.inf], dtype=dtype)}.items(), "here", "mend")
