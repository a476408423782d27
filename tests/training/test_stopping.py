"""Early stopping: the weights of the best check are the checkpoint's, whatever was killed on the way."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from accelerate import DistributedType

from hermesflow.config.sections import Lora, Stopping
from hermesflow.core.errors import ConfigError
from hermesflow.core.files import Layout, read_json, read_weights, write_json
from hermesflow.stages import prefer, train
from hermesflow.tracking import runs
from hermesflow.training.stopping import EarlyStopping
from tests.support.pair_world import make_world, score_reference, small_config
from tests.support.stopping_world import STOPPING, figure_of_the_weights, write_judged

CHECKPOINT = "pair-1"
TRAINING = {"steps": 24, "learning_rate": 2e-3, "warmup_steps": 2, "checkpoint_every": 3}
LORA = Lora(rank=4, alpha=8.0, targets=("q_proj", "fc1"))


class Killed(Exception): ...


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch):
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """What stage train needs, with what a judge of its weights needs."""
    config = small_config(**TRAINING)
    layout = make_world(tmp_path_factory.mktemp("world") / "results", config)
    prefer.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    score_reference(config, layout, CHECKPOINT)
    write_judged(config, layout)
    return layout.root


@pytest.fixture
def layout(world, tmp_path) -> Layout:
    return Layout(Path(shutil.copytree(world, tmp_path / "results")))


def train_once(layout, seen=None, **training):
    with figure_of_the_weights(seen=seen):
        train.run(small_config(**{**TRAINING, **training}), layout, seed=0, checkpoint=CHECKPOINT)


def killing(at):
    """A run whose log of a step kills the training."""

    def log(metrics, step):
        if step == at:
            raise Killed

    return SimpleNamespace(log=log)


def model_of(layout):
    return layout.checkpoint(0, CHECKPOINT) / "model"


def files_of(layout):
    return {path.name: path.read_bytes() for path in model_of(layout).iterdir() if path.is_file()}


def test_the_best_of_the_checks_is_kept_and_training_ends_when_none_is_better(layout):
    seen = []
    train_once(layout, seen, stopping=STOPPING)
    history = pd.read_csv(model_of(layout) / "history.csv")
    checks = history.dropna(subset="strict_acceptance").set_index("step")["strict_acceptance"]
    best = checks.idxmax()
    assert list(checks.index) == list(range(2, len(history) + 1, 2)) and 2 < best < len(history) < 24
    assert len(history) == best + STOPPING.patience * STOPPING.every
    assert read_json(model_of(layout) / "manifest.json")["stopping"] == {"step": best, "prompts": {"dense": 5}}
    kept, last = seen[best // 2 - 1], seen[-1]
    own = read_weights(model_of(layout) / "model.safetensors")
    assert all(torch.equal(own[name], kept[name]) for name in own)
    assert any(not torch.equal(own[name], last[name]) for name in own)


def test_a_training_that_gets_better_to_the_end_is_checked_at_its_last_step_and_kept(layout, tmp_path):
    stopped = Stopping(every=4, patience=1, prompts=5)
    shutil.copytree(layout.root, tmp_path / "other")
    train_once(layout, steps=24, learning_rate=1e-5, stopping=stopped)
    train_once(Layout(tmp_path / "other"), steps=24, learning_rate=1e-5)
    history = pd.read_csv(model_of(layout) / "history.csv")
    assert list(history.dropna()["step"]) == [4, 8, 12, 16, 20, 24]
    assert read_json(model_of(layout) / "manifest.json")["stopping"]["step"] == 24
    ours, theirs = files_of(layout), files_of(Layout(tmp_path / "other"))
    assert ours["model.safetensors"] == theirs["model.safetensors"]
    plain = pd.read_csv(model_of(Layout(tmp_path / "other")) / "history.csv")
    pd.testing.assert_frame_equal(history.drop(columns="strict_acceptance"), plain)
    assert "stopping" not in read_json(model_of(Layout(tmp_path / "other")) / "manifest.json")


@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "adapters"])
def test_killed_anywhere_it_ends_with_the_same_bytes(layout, monkeypatch, lora):
    rate = {"lora": lora, "learning_rate": 2e-2} if lora else {}
    train_once(layout, stopping=STOPPING, **rate)
    steps, straight = len(pd.read_csv(model_of(layout) / "history.csv")), files_of(layout)
    assert read_json(model_of(layout) / "manifest.json")["stopping"]["step"] > 4 and steps < 24
    shutil.rmtree(model_of(layout))

    for at in range(1, steps + 1):  # again and again in one training, later each time
        monkeypatch.setattr(runs, "open_run", lambda *args, at=at, **kwargs: nullcontext(killing(at)))
        with pytest.raises(Killed):
            train_once(layout, stopping=STOPPING, **rate)
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())
    train_once(layout, stopping=STOPPING, **rate)
    assert files_of(layout) == straight
    assert not (layout.checkpoint(0, CHECKPOINT) / "state").exists()


def test_the_checkpoint_s_own_judge_is_asked_and_images_that_cannot_be_read_are_not_accepted(layout):
    config = small_config(**TRAINING, stopping=Stopping(every=2, patience=2, prompts=9))
    train.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    history = pd.read_csv(model_of(layout) / "history.csv")  # a random model and tokenizer draw nothing that is right
    assert list(history.dropna()["step"]) == [2, 4, 6] and set(history["strict_acceptance"].dropna()) == {0.0}
    manifest = read_json(model_of(layout) / "manifest.json")
    assert manifest["stopping"]["step"] == 2 and sum(manifest["stopping"]["prompts"].values()) == 9
    assert {Path(name).name for name in manifest["inputs"]} >= {"understanding.parquet", "prompts.parquet"}
    assert {"data.seed", "data.source", "sampling.images"} <= manifest["config"].keys()


def test_a_state_of_images_drawn_otherwise_is_not_gone_on_with(layout, monkeypatch):
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext(killing(5)))
    with pytest.raises(Killed):
        train_once(layout, stopping=STOPPING)
    (state,) = (layout.checkpoint(0, CHECKPOINT) / "state").glob("step-*/progress.json")
    write_json(state, {**read_json(state), "task": "of other images"})
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())
    seen = []
    train_once(layout, seen, stopping=STOPPING)
    history = pd.read_csv(model_of(layout) / "history.csv")
    assert len(seen) == history["strict_acceptance"].count()  # from the first check


def test_sharded_weights_are_refused():
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(ConfigError, match=r"training\.stopping: no process of a sharded training has all weights"):
        EarlyStopping(STOPPING, float, torch.nn.Linear(1, 1), accelerator)
