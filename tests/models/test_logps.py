import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PhiConfig, PhiForCausalLM

from hermesflow.models import logps as logps_module
from hermesflow.models.logps import row_sums, token_logps
from hermesflow.training.losses import dpo_logratios, pair_dpo_loss

GOLDENS = Path(__file__).parents[1] / "goldens" / "showo_tiny"
BETA = 0.2


def scored_states(count=7, width=5, vocabulary=11):
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(width, vocabulary)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(count, width, generator=generator, requires_grad=True)
    return hidden, torch.randint(0, vocabulary, (count,), generator=generator), head


@pytest.mark.parametrize("logits", [2**26, 25, 1])  # all together, two at a time, one by one
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equal_the_log_softmax_with_its_gradients_in_chunks_of_any_size(monkeypatch, logits, precision):
    monkeypatch.setattr(logps_module, "LOGITS", logits)
    hidden, targets, head = scored_states()
    weights = torch.arange(1.0, 8.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        found = token_logps(hidden, targets, head)
        expected = head(hidden).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    inputs = [hidden, *head.parameters()]
    gradients = [torch.autograd.grad((logps * weights).sum(), inputs, retain_graph=True) for logps in (expected, found)]
    for one, other in zip(*gradients, strict=True):
        close = 1e-5 if precision == "float32" else 5e-2
        torch.testing.assert_close(one, other, atol=close, rtol=close)
    with torch.no_grad():
        torch.testing.assert_close(token_logps(hidden, targets, head), found.float(), atol=5e-2, rtol=1e-2)


def test_far_logits_do_not_overflow():
    head = torch.nn.Linear(1, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        head.bias.zero_()
    far = torch.tensor([[500.0]], requires_grad=True)
    assert token_logps(far, torch.tensor([1]), head).item() == -1000.0


def test_sums_by_row():
    scored = torch.tensor([[True, False, True], [False, False, False], [True, True, False]])
    assert row_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), scored).tolist() == [3.0, 0.0, 12.0]


def test_wrong_shapes_are_refused():
    hidden, targets, head = scored_states()
    with pytest.raises(ValueError, match="expected hidden"):
        token_logps(hidden, targets[1:], head)


@pytest.mark.parametrize("pairs", [1, 2])
def test_official_terms_and_gradients(pairs):
    """Per-pair log-probs add up to the official batch sums; with one pair, loss and gradients are the official ones."""
    tensors = load_file(GOLDENS / "reference.safetensors")
    golden = json.loads((GOLDENS / "reference.json").read_text())[f"dpo_bs{pairs}.fixed"]
    logps = {}
    for name, model in (("ref_", _golden_model(noise=0.0)), ("", policy := _golden_model(noise=0.001))):
        for side in ("win", "lose"):
            logps[f"{name}{side}_t2i"], logps[f"{name}{side}_mmu"] = _official_rows(
                model, tensors, f"dpo_bs{pairs}", side, pairs
            )
    for term, values in logps.items():
        assert values.sum().item() == pytest.approx(golden["terms"][term], rel=1e-5), term
    deltas = [
        dpo_logratios(*(logps[f"{m}{s}_{skill}"] for m in ("", "ref_") for s in ("win", "lose")))
        for skill in ("mmu", "t2i")
    ]
    if pairs == 1:
        loss = pair_dpo_loss(*deltas, beta=BETA, objective="pair", caption_weight=1.0, image_weight=1.0).sum()
        loss.backward()
        assert loss.item() == pytest.approx(golden["loss"], abs=1e-4)
        gradients = {f"showo.{name}": p.grad for name, p in policy.named_parameters()}
        norm = torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()
        assert norm.item() == pytest.approx(golden["grad_norm"], rel=1e-3)
        for name in (k for k in tensors if k.startswith("dpo_bs1.fixed.grad.")):
            own = gradients[name.removeprefix("dpo_bs1.fixed.grad.")]
            assert torch.allclose(own, tensors[name], rtol=1e-3, atol=1e-4), name


def _golden_model(*, noise: float) -> PhiForCausalLM:
    weights = load_file(GOLDENS / "model.safetensors")
    config = PhiConfig(
        vocab_size=779,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        layer_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        qk_layernorm=True,
        attn_implementation="sdpa",
    )
    model = PhiForCausalLM(config).eval()
    model.load_state_dict({k.removeprefix("showo."): v for k, v in weights.items()}, strict=True)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return model


def _official_rows(model, tensors, name, side, pairs):
    """Image rows predict in place, from the image's first boundary on; caption rows predict the next token."""
    labels = tensors[f"{name}.labels_{side}"]
    hidden = model.model(
        input_ids=tensors[f"{name}.input_ids_{side}"], attention_mask=tensors[f"{name}.attention_mask_{side}"]
    ).last_hidden_state
    parts = (hidden[:pairs, 33:], labels[:pairs, 33:]), (hidden[pairs:, :-1], labels[pairs:, 1:])
    return tuple(
        row_sums(token_logps(states[own != -100], own[own != -100], model.lm_head), own != -100)
        for states, own in parts
    )
