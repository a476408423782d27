"""The DPO terms of the official code: as it means them (`fixed` in the goldens), and as it takes them (`official`).

Three things differ from training here and are rebuilt below from lower-level functions: the official image term also
scores the two boundary tokens, the official code sums over the batch before the sigmoid, and its slice `[-0:]` puts the
image rows into the caption term.
"""

import pytest
import torch

from hermesflow.models.logps import row_sums, token_logps
from tests.support.dpo import dpo_loss
from tests.support.showo_golden import golden_model, reference

SOI = 33  # column of <|soi|> in a recorded image row
SIZES = (1, 2)
WAYS = ("fixed", "official")


@pytest.fixture(scope="module")
def frozen():
    return golden_model()


@pytest.fixture(scope="module")
def policy():
    model, generator = golden_model(), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.001)
    return model


def logps(model, size, side, kind, way="fixed"):
    """Log-probabilities by row, (size,), of the recorded rows; the official caption term has as many image rows too."""
    tensors, _ = reference()
    rows = slice(0, size) if kind == "t2i" else slice(size if way == "fixed" else 0, None)
    ids, mask, labels = (tensors[f"dpo_bs{size}.{n}_{side}"][rows] for n in ("input_ids", "attention_mask", "labels"))
    hidden = model.hidden(ids, mask)
    if kind == "t2i":  # a masked code is predicted at its own place
        hidden, labels = hidden[:, SOI:], labels[:, SOI:]
    else:  # a word is predicted one place before
        hidden, labels = hidden[:, :-1], labels[:, 1:]
    return sums(model, hidden, labels, labels != -100)


def sums(model, hidden, labels, scored):
    return row_sums(token_logps(hidden[scored], labels[scored], model.showo.lm_head), scored)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["t2i", "mmu"])
@pytest.mark.parametrize("side", ["win", "lose"])
@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_logps_of_rows_add_up_to_the_recorded_sums(frozen, policy, size, kind, side, way):
    terms = reference()[1][f"dpo_bs{size}.{way}"]["terms"]
    for model, name in ((frozen, f"ref_{side}_{kind}"), (policy, f"{side}_{kind}")):
        found = logps(model, size, side, kind, way)
        assert found.sum().item() == pytest.approx(terms[name], rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_loss_and_gradient(frozen, policy, size, way):
    tensors, facts = reference()
    recorded, beta = facts[f"dpo_bs{size}.{way}"], facts["dpo.beta"]
    policy.zero_grad(set_to_none=True)
    losses = {}
    for kind in ("t2i", "mmu"):
        chosen, rejected = (logps(policy, size, side, kind, way).sum()[None] for side in ("win", "lose"))
        with torch.no_grad():
            ref_chosen, ref_rejected = (logps(frozen, size, side, kind, way).sum()[None] for side in ("win", "lose"))
        losses[kind] = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=beta)[0]
        # differences of sums near 1,000 nats in float32
        assert losses[kind].item() == pytest.approx(recorded["terms"][f"dpo_{kind}"], abs=1e-4)
    loss = losses["t2i"] + losses["mmu"]
    assert loss.item() == pytest.approx(recorded["loss"], abs=1e-4)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(recorded["grad_norm"], rel=1e-3)
    named = dict(policy.named_parameters())
    for key, expected in tensors.items():
        if key.startswith(f"dpo_bs{size}.{way}.grad."):
            found = named[key.split("grad.", 1)[1]].grad
            torch.testing.assert_close(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-3)


@torch.inference_mode()
def test_our_image_term_is_the_official_one_without_the_boundary_tokens(frozen):
    tensors, _ = reference()
    ids, mask, labels = (tensors[f"dpo_bs1.{n}_win"][:1] for n in ("input_ids", "attention_mask", "labels"))
    codes = torch.where(labels[:, SOI + 1 : -1] == -100, ids[:, SOI + 1 : -1], labels[:, SOI + 1 : -1]) - 522
    masked = ids[:, SOI + 1 : -1] == frozen.ids.mask
    boundary = torch.zeros_like(labels[:, SOI:], dtype=torch.bool)
    boundary[:, [0, -1]] = True
    both = sums(frozen, frozen.hidden(ids, mask)[:, SOI:], labels[:, SOI:], boundary)
    found = frozen.image_logps(["raccoon"], codes, masked) + both
    torch.testing.assert_close(found, logps(frozen, 1, "win", "t2i"), atol=1e-3, rtol=1e-6)
