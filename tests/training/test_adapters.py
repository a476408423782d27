"""Low-rank adapters: what they leave alone, and what is left of them."""

import copy
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import PeftModel

from hermesflow.config import reads
from hermesflow.config.load import load_config
from hermesflow.config.sections import Lora
from hermesflow.config.tree import training_of
from hermesflow.core.errors import ConfigError
from hermesflow.core.files import Layout, read_weights
from hermesflow.models.backbone import load_model
from hermesflow.stages import prefer, reference, train
from hermesflow.tracking import runs
from hermesflow.training.logps import PairLogps
from hermesflow.training.lora import add_adapters
from hermesflow.training.pair_dpo import new_optimizer
from tests.support.pair_world import SMOKE, make_world, pairs_of, small_config, training

CHECKPOINT = "pair-1"
LORA = Lora(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "fc1"))


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    layout = make_world(tmp_path_factory.mktemp("world") / "results", small_config())
    prefer.run(small_config(), layout, seed=0, checkpoint=CHECKPOINT)
    return layout


@pytest.fixture
def parent(layout):
    return load_model(layout.checkpoint(0, "base") / "model", device="cpu")


@pytest.fixture(scope="module")
def trained(layout, tmp_path_factory) -> Path:
    """The checkpoint's folder after training its adapters."""
    own = Layout(Path(shutil.copytree(layout.root, tmp_path_factory.mktemp("trained") / "results")))
    config = small_config(lora=LORA, steps=20, learning_rate=2e-2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())
        for stage in (reference, train):
            stage.run(config, own, seed=0, checkpoint=CHECKPOINT)
    return own.checkpoint(0, CHECKPOINT)


def logps(model, layout):
    pairs = pairs_of(layout, CHECKPOINT)
    with torch.no_grad():
        return torch.stack(PairLogps(model, "pair").eval()(pairs.batch(pairs.rows(6), device="cpu")))


def test_with_adapters_off_the_policy_is_its_reference_to_the_last_bit(parent, layout):
    before = logps(parent, layout)
    weights = {name: value.data_ptr() for name, value in parent.state_dict().items()}
    adapted = add_adapters(parent, LORA, seed=0)
    assert torch.equal(logps(parent, layout), before)  # step 1: they change nothing yet
    for name, weight in parent.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight)
    assert not torch.allclose(logps(parent, layout), before, atol=1e-3)
    with adapted.disable_adapter():
        assert torch.equal(logps(parent, layout), before)

    held = {name.replace(".base_layer", ""): value for name, value in parent.state_dict().items()}
    assert {name: held[name].data_ptr() for name in weights} == weights, "the weights were copied"
    others = {name for name in held if name not in weights}
    assert all("lora_" in name for name in others)
    assert len({parameter.data_ptr() for parameter in adapted.parameters()}) == len(list(parent.parameters()))


def test_adapters_alone_are_trained(parent):
    add_adapters(parent, LORA, seed=0)
    optimizer = new_optimizer(PairLogps(parent, "pair"), training())
    in_optimizer = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for name, p in parent.named_parameters() if "lora_" in name}
    layers = parent.shape.layers * len(LORA.targets)
    assert len(in_optimizer) == 2 * layers


def test_adapters_are_drawn_from_the_seed_alone(parent):
    models = [copy.deepcopy(parent) for _ in range(3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        add_adapters(model, LORA, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = [torch.cat([p.flatten() for name, p in m.named_parameters() if "lora_A" in name]) for m in models]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_layers_without_that_name_are_refused(parent):
    with pytest.raises(ConfigError, match=r"training\.lora\.targets: .*no_such_proj"):
        add_adapters(parent, replace(LORA, targets=("no_such_proj",)), seed=0)


def test_the_loss_starts_at_ln_2_per_term_and_falls(trained):
    history = pd.read_csv(trained / "model" / "history.csv")
    assert history["loss"].iloc[0] == pytest.approx(2 * 0.6931472, abs=1e-6)
    assert history["loss"].iloc[-3:].mean() < 0.9 * history["loss"].iloc[0]


def test_a_checkpoint_is_a_whole_model_and_holds_its_adapters_too(trained, layout, parent):
    whole = read_weights(trained / "model" / "model.safetensors")
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    moved = {name for name, value in before.items() if not torch.equal(whole[name], value)}
    assert whole.keys() == before.keys()
    assert {name.split(".")[-2] for name in moved} == set(LORA.targets)
    assert all(name.endswith(".weight") for name in moved)

    merged = logps(load_model(trained / "model", device="cpu"), layout)
    PeftModel.from_pretrained(parent.showo, trained / "model" / "adapter")  # in place
    torch.testing.assert_close(logps(parent, layout), merged, atol=1e-4, rtol=1e-5)


def test_an_interrupted_training_of_adapters_goes_on(trained, layout, tmp_path, monkeypatch):
    class Killed(Exception): ...

    def stop(state, accelerator, history):
        save(state, accelerator, history)
        raise Killed

    own = Layout(Path(shutil.copytree(layout.root, tmp_path / "results")))
    config = small_config(lora=LORA, steps=20, learning_rate=2e-2)
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())
    reference.run(config, own, seed=0, checkpoint=CHECKPOINT)
    save = train.StateFolder.save
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train.StateFolder, "save", stop)
        train.run(config, own, seed=0, checkpoint=CHECKPOINT)
    train.run(config, own, seed=0, checkpoint=CHECKPOINT)
    files = ("model.safetensors", "history.csv", "adapter/adapter_model.safetensors", "adapter/adapter_config.json")
    for file in files:
        again = own.checkpoint(0, CHECKPOINT) / "model" / file
        assert again.read_bytes() == (trained / "model" / file).read_bytes(), file


def test_what_is_trained_is_a_reason_to_train_again_but_not_to_score_the_reference(tmp_path):
    file = tmp_path / "lora.yaml"
    section = "\ntraining:\n  lora: {rank: 4, alpha: 8, targets: [fc1]}\n"
    file.write_text(SMOKE.read_text().replace("\ntraining:\n", section))
    plain, lora = load_config(SMOKE), load_config(file)
    assert training_of(lora, "pair-1").lora == Lora(rank=4, alpha=8.0, targets=("fc1",))
    changed = [s for s in ("reference", "train") if _read(plain, s) != _read(lora, s)]
    assert changed == ["train"]


def _read(config, stage):
    return reads.params_of(config, stage, CHECKPOINT)
