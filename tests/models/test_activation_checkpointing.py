"""Recomputed activations: the same gradients from less memory."""

import pytest
import torch

from hermesflow.models.backbone import load_model, recompute_activations
from hermesflow.stages import prefer
from hermesflow.training.logps import PairLogps
from tests.support.pair_world import make_world, pairs_of, small_config

CHECKPOINT = "pair-1"


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    layout = make_world(tmp_path_factory.mktemp("world") / "results", small_config())
    prefer.run(small_config(), layout, seed=0, checkpoint=CHECKPOINT)
    return layout


def gradients(layout, *, recompute: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradient of every parameter, and the bytes that the forward pass keeps for them, weights apart."""
    model = load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    if recompute:
        recompute_activations(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    pairs = pairs_of(layout, CHECKPOINT)
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logps = torch.stack(PairLogps(model, "pair").eval()(pairs.batch(pairs.rows(4), device="cpu")))
    size = sum(kept.values())
    (logps * torch.arange(1.0, 5.0)[:, None]).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, size


def test_gradients_are_the_same_to_the_last_bit_and_less_is_kept(layout):
    kept, all_of_it = gradients(layout, recompute=False)
    recomputed, little = gradients(layout, recompute=True)
    assert kept.keys() == recomputed.keys()
    for name, gradient in kept.items():
        assert gradient is not None, name
        assert torch.equal(gradient, recomputed[name]), name
    assert little < 0.6 * all_of_it, f"{little} of {all_of_it} bytes"


def test_scoring_without_gradients_is_untouched(layout):
    pairs = pairs_of(layout, CHECKPOINT)
    batch = pairs.batch(pairs.rows(3), device="cpu")
    model = load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    with torch.no_grad():
        before = torch.stack(PairLogps(model, "pair").eval()(batch))
        recompute_activations(model)
        assert torch.equal(torch.stack(PairLogps(model, "pair").eval()(batch)), before)
