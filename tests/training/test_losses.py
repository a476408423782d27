import math

import pytest
import torch
from torch import tensor

from hermesflow.training.losses import chosen_nll, dpo_logratios, implicit_rewards, pair_dpo_loss
from tests.support.dpo import dpo_loss

LN2 = math.log(2)
ONE = {"beta": 0.2, "caption_weight": 1.0, "image_weight": 1.0}


def test_known_value():
    loss = dpo_loss(tensor([-10.0]), tensor([-12.0]), tensor([-11.0]), tensor([-11.5]), beta=0.2)
    assert loss.item() == pytest.approx(0.554355, abs=1e-6)


def test_policy_equal_to_reference_gives_ln_2_per_term():
    chosen, rejected = tensor([-3.0, -400.0]), tensor([-5.0, -1.0])
    assert dpo_loss(chosen, rejected, chosen, rejected, beta=0.2).tolist() == pytest.approx([LN2, LN2])
    zero = torch.zeros(2)
    assert pair_dpo_loss(zero, zero, objective="pair", **ONE).tolist() == pytest.approx([2 * LN2] * 2)
    for objective in ("product", "understanding", "generation"):
        assert pair_dpo_loss(zero, zero, objective=objective, **ONE).tolist() == pytest.approx([LN2] * 2)


def test_loss_falls_when_the_policy_prefers_chosen_more():
    reference = (tensor([-5.0]), tensor([-5.0]))
    losses = [dpo_loss(tensor([-5.0 + d]), tensor([-5.0 - d]), *reference, beta=0.2).item() for d in (-1, 0, 1, 2)]
    assert losses == sorted(losses, reverse=True)


def test_pair_is_the_sum_of_both_skills_with_their_weights():
    mmu, t2i = tensor([1.0, -2.0]), tensor([0.5, 3.0])
    own = {"beta": 0.2, "caption_weight": 0.25, "image_weight": 2.0}
    parts = [pair_dpo_loss(mmu, t2i, objective=o, **own) for o in ("understanding", "generation")]
    assert torch.equal(pair_dpo_loss(mmu, t2i, objective="pair", **own), parts[0] + parts[1])
    assert parts[0].tolist() == pytest.approx([0.25 * -math.log(1 / (1 + math.exp(-0.2 * d))) for d in (1.0, -2.0)])
    assert parts[1].tolist() == pytest.approx([2.0 * -math.log(1 / (1 + math.exp(-0.2 * d))) for d in (0.5, 3.0)])


def test_product_multiplies_inside_one_sigma_and_cannot_start():
    mmu, t2i = tensor([2.0], requires_grad=True), tensor([3.0], requires_grad=True)
    loss = pair_dpo_loss(mmu, t2i, objective="product", **ONE)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-(0.4 * 0.6)))))
    weighted = pair_dpo_loss(mmu, t2i, objective="product", beta=0.2, caption_weight=0.5, image_weight=3.0)
    assert weighted.item() == pytest.approx(1.5 * loss.item())
    start = torch.zeros(1, requires_grad=True)
    pair_dpo_loss(start, torch.zeros(1), objective="product", **ONE).sum().backward()
    assert start.grad.item() == 0.0


def test_one_sided_objectives_ignore_the_other_skill():
    mmu, t2i = tensor([1.0], requires_grad=True), tensor([2.0], requires_grad=True)
    pair_dpo_loss(mmu, t2i, objective="understanding", **ONE).sum().backward()
    assert mmu.grad is not None and t2i.grad is None


def test_rows_do_not_mix():
    logps = [torch.linspace(-9, -1, 4) * k for k in (1.0, 1.1, 0.9, 1.3)]
    whole = dpo_loss(*logps, beta=0.2)
    rows = torch.cat([dpo_loss(*(x[k : k + 1] for x in logps), beta=0.2) for k in range(4)])
    assert torch.equal(whole, rows)


def test_rewards_are_beta_times_the_logratio_without_gradient():
    rewards = implicit_rewards(tensor([-1.0], requires_grad=True), tensor([-3.0]), beta=0.5)
    assert rewards.item() == 1.0 and not rewards.requires_grad


def test_wrong_arguments_are_refused():
    two, three = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match="one value per pair"):
        dpo_logratios(two, two, two, three)
    with pytest.raises(ValueError, match="one value per pair"):
        dpo_logratios(*[torch.zeros(())] * 4)  # a sum over the batch is not per pair
    with pytest.raises(ValueError, match="beta"):
        dpo_loss(two, two, two, two, beta=0.0)
    with pytest.raises(ValueError, match="one delta of each kind"):
        pair_dpo_loss(two, three, objective="pair", **ONE)
    with pytest.raises(ValueError, match="objective"):
        pair_dpo_loss(two, two, objective="both", **ONE)


def test_chosen_has_no_preference_term_and_the_likelihood_of_both_skills():
    mmu, t2i = tensor([1.0, -2.0], requires_grad=True), tensor([0.5, 3.0])
    assert pair_dpo_loss(mmu, t2i, objective="chosen", **ONE).tolist() == [0, 0]
    logps = tensor([-3.0, -1.0]), tensor([-20.0, -8.0])
    assert chosen_nll(*logps, objective="chosen").tolist() == [23, 9]
    assert chosen_nll(*logps, objective="chosen", caption_weight=2.0, image_weight=0.5).tolist() == [16, 6]
    assert chosen_nll(*logps, objective="understanding", caption_weight=2.0).tolist() == [6, 2]


def test_likelihood_of_chosen_is_that_of_the_skills_trained():
    mmu, t2i = tensor([-3.0, -1.0]), tensor([-20.0, -8.0])
    assert chosen_nll(mmu, t2i, objective="pair").tolist() == [23, 9]
    assert chosen_nll(mmu, t2i, objective="understanding").tolist() == [3, 1]
    assert chosen_nll(mmu, t2i, objective="generation").tolist() == [20, 8]
    with pytest.raises(ValueError, match="one value per pair"):
        chosen_nll(mmu, t2i[:1], objective="pair")
