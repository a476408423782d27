import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PhiConfig, PhiForCausalLM

from hermesflow.logps import sequence_logps
from hermesflow.losses import dpo_logratios, pair_dpo_loss

GOLDENS = Path(__file__).parent / "goldens" / "showo_tiny"
BETA = 0.2


def test_equals_the_sum_of_log_softmax_over_the_mask():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 11, generator=generator)
    targets = torch.randint(0, 11, (3, 5), generator=generator)
    mask = torch.rand(3, 5, generator=generator) < 0.5
    mask[1] = False
    token_logps = logits.log_softmax(-1).gather(2, targets[:, :, None])[:, :, 0]
    assert torch.allclose(sequence_logps(logits, targets, mask), (token_logps * mask).sum(1), atol=1e-6)
    assert sequence_logps(logits, targets, mask)[1] == 0.0


def test_targets_outside_the_mask_and_infinities_there_do_not_matter():
    logits = torch.zeros(1, 3, 4)
    logits[0, 2] = float("-inf")
    logits.requires_grad_()
    logps = sequence_logps(logits, torch.tensor([[1, -100, 99]]), torch.tensor([[True, False, False]]))
    logps.sum().backward()
    assert logps.item() == pytest.approx(-torch.log(torch.tensor(4.0)).item())
    assert logits.grad.isfinite().all() and not logits.grad[0, 1:].any()


def test_sums_in_float32_whatever_the_logits_are():
    logps = sequence_logps(torch.zeros(1, 400, 8, dtype=torch.bfloat16), torch.zeros(1, 400).long(), _all(1, 400))
    assert logps.dtype == torch.float32
    assert logps.item() == pytest.approx(-400 * torch.log(torch.tensor(8.0)).item(), rel=1e-5)


def test_wrong_shapes_are_refused():
    logits, targets = torch.zeros(2, 3, 4), torch.zeros(2, 3).long()
    with pytest.raises(ValueError, match="expected logits"):
        sequence_logps(logits, targets, _all(2, 4))
    with pytest.raises(ValueError, match="boolean"):
        sequence_logps(logits, targets, torch.ones(2, 3))


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
    logits = model(
        input_ids=tensors[f"{name}.input_ids_{side}"], attention_mask=tensors[f"{name}.attention_mask_{side}"]
    ).logits
    t2i, mmu = labels[:pairs, 33:], labels[pairs:, 1:]
    return (
        sequence_logps(logits[:pairs, 33:], t2i, t2i != -100),
        sequence_logps(logits[pairs:, :-1], mmu, mmu != -100),
    )


def _all(rows: int, columns: int) -> torch.Tensor:
    return torch.ones(rows, columns, dtype=torch.bool)
