"""Models that get their weights from a file."""

import pytest
import torch
from torch import nn

from hermesflow.models.backbone import load_model
from hermesflow.models.loading import fill, moved, without_weights
from tests.support.showo_golden import random_model


class Small(nn.Module):
    """Parameters, and a buffer that no file holds."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("steps", torch.arange(4.0), persistent=False)


def empty():
    with without_weights():
        return Small()


WEIGHTS = {"linear.weight": torch.arange(6.0).view(2, 3), "linear.bias": torch.ones(2)}


def test_building_takes_no_memory_and_no_random_numbers():
    before = torch.random.get_rng_state()
    model = empty()
    assert torch.equal(before, torch.random.get_rng_state())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_filled_model_is_whole_trainable_and_owns_its_memory():
    model = empty()
    fill(model, WEIGHTS)
    model = moved(model, "cpu")
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model.steps, torch.arange(4.0)) and not model.training
    assert all(parameter.requires_grad and parameter.data_ptr() % 64 == 0 for parameter in model.parameters())
    model.linear.bias.data.zero_()
    assert WEIGHTS["linear.bias"].sum() == 2


def test_weights_keep_the_number_type_of_the_model():
    model = empty()
    fill(model, {name: tensor.half() for name, tensor in WEIGHTS.items()})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("wrong", [{}, {**WEIGHTS, "more": torch.ones(1)}, {**WEIGHTS, "linear.bias": torch.ones(3)}])
def test_other_weights_are_refused(wrong):
    with pytest.raises(RuntimeError):
        fill(empty(), wrong)


def test_half_precision_is_of_parameters_alone():
    model = empty()
    fill(model, WEIGHTS)
    model = moved(model, "cpu", torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.steps.dtype == torch.float32


def test_a_model_in_half_precision_says_nearly_the_same(tmp_path):
    """Positions are not rounded: a rotary frequency in bfloat16 would turn far tokens by radians."""
    random_model().save(tmp_path)
    whole, half = (load_model(tmp_path, device="cpu", precision=precision) for precision in ("no", "bf16"))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.showo.model.rotary_emb.inv_freq.dtype == torch.float32
    codes = torch.zeros(2, whole.num_image_tokens, dtype=torch.int64)
    masked = torch.ones_like(codes, dtype=torch.bool)
    for call in (
        lambda model: model.image_logps(["w1", "w2 w3"], codes, masked),
        lambda model: model.text_logps(codes, ["w1", "w2"], ["w3", "w4 w5"]),
        lambda model: model.image_session(["w1", "w2"], guidance=1.0).logits(codes, masked).float(),
        lambda model: model.text_session(codes, torch.arange(2), ["w1", "w2"]).logits.float(),
    ):
        with torch.inference_mode():
            assert torch.allclose(call(half), call(whole), rtol=0.02, atol=0.1)
