"""Models that get their weights from a file."""

import pytest
import torch
from torch import nn

from hermesflow.models.loading import fill, moved, without_weights


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
