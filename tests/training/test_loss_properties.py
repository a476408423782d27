"""Rules of the losses that hold for all log-probabilities."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hermesflow.training.losses import Objective, dpo_logratios, pair_dpo_loss
from tests.support.dpo import dpo_loss

NATS = st.floats(-500, 0, width=32)
DELTAS = st.lists(st.tuples(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32)), min_size=1, max_size=5)
BETAS = st.floats(0.01, 2)
WEIGHTS = st.floats(0, 3)


def vectors(columns):
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*columns, strict=True)]


@given(st.lists(st.tuples(NATS, NATS), min_size=1, max_size=5), BETAS)
def test_a_policy_equal_to_its_reference_loses_ln_2(columns, beta):
    chosen, rejected = vectors(columns)
    loss = dpo_loss(chosen, rejected, chosen, rejected, beta=beta)
    assert loss.tolist() == pytest.approx([math.log(2)] * len(columns))


@given(st.lists(st.tuples(NATS, NATS, NATS, NATS), min_size=1, max_size=5), BETAS)
def test_exchanging_chosen_and_rejected_turns_the_preference_round(columns, beta):
    chosen, rejected, ref_chosen, ref_rejected = vectors(columns)
    delta = dpo_logratios(chosen, rejected, ref_chosen, ref_rejected)
    assert torch.equal(dpo_logratios(rejected, chosen, ref_rejected, ref_chosen), -delta)
    one = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=beta)
    other = dpo_loss(rejected, chosen, ref_rejected, ref_chosen, beta=beta)
    # sigma(x) + sigma(-x) = 1
    assert (torch.exp(-one) + torch.exp(-other)).tolist() == pytest.approx([1.0] * len(columns))


@given(DELTAS, BETAS, WEIGHTS, WEIGHTS, st.sampled_from(get_args(Objective)))
def test_every_loss_is_per_pair_finite_and_not_below_zero(deltas, beta, captions, images, objective):
    settings = {"beta": beta, "objective": objective, "caption_weight": captions, "image_weight": images}
    mmu, t2i = vectors(deltas)
    loss = pair_dpo_loss(mmu, t2i, **settings)
    assert loss.isfinite().all() and (loss >= 0).all()
    alone = [pair_dpo_loss(mmu[i : i + 1], t2i[i : i + 1], **settings).item() for i in range(len(deltas))]
    assert loss.tolist() == pytest.approx(alone)


@given(DELTAS, BETAS, WEIGHTS, WEIGHTS, st.sampled_from(["pair", "understanding", "generation"]), st.randoms())
def test_a_pair_that_weighs_nothing_is_as_if_it_were_not_there(deltas, beta, captions, images, objective, random):
    mmu, t2i = vectors(deltas)
    there = [torch.tensor([random.random() < 0.5 for _ in deltas]) for _ in range(2)]
    weights = [skill * len(deltas) / max(int(skill.sum()), 1) for skill in there]
    own = {"caption_weight": captions * weights[0], "image_weight": images * weights[1]}
    loss = pair_dpo_loss(mmu, t2i, beta=beta, objective=objective, **own).mean()
    alone = [
        weight * -torch.nn.functional.logsigmoid(beta * delta[skill]).sum() / max(int(skill.sum()), 1)
        for weight, delta, skill in ((captions, mmu, there[0]), (images, t2i, there[1]))
    ]
    wanted = {"pair": sum(alone), "understanding": alone[0], "generation": alone[1]}
    assert loss.item() == pytest.approx(wanted[objective].item())


@given(DELTAS, BETAS, st.floats(0.1, 3), st.floats(0.1, 3))
def test_pair_dpo_never_pushes_a_skill_towards_its_rejected_answer(deltas, beta, captions, images):
    """The gradient of each delta is below 0 however the other skill stands; `product` does not have that."""
    mmu, t2i = (delta.requires_grad_() for delta in vectors(deltas))
    loss = pair_dpo_loss(mmu, t2i, beta=beta, objective="pair", caption_weight=captions, image_weight=images)
    loss.sum().backward()
    expected = [-weight * beta * torch.sigmoid(-beta * x.detach()) for weight, x in ((captions, mmu), (images, t2i))]
    for x, gradient in zip((mmu, t2i), expected, strict=True):
        assert x.grad.tolist() == pytest.approx(gradient.tolist())
        assert (x.grad < 0).all()
