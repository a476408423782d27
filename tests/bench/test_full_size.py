"""The full-size benchmark at a tiny size: its step is the one of training."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import full_size
from hermesflow.models.backbone import recompute_activations
from hermesflow.training.distributed import new_accelerator
from hermesflow.training.interruption import Interruption
from hermesflow.training.logps import ReferenceTable, reference_logps
from hermesflow.training.pair_dpo import train_policy
from hermesflow.training.state import StateFolder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("backbone", full_size.BACKBONES)
def test_its_step_is_the_first_of_training_to_the_last_bit(tmp_path, backbone):
    training = replace(full_size.TRAINING, steps=1, warmup_steps=0)
    accelerator = new_accelerator(training, device="cpu", precision="no")
    model = full_size.random_model("tiny", backbone)
    pairs = full_size.one_pair(model, full_size.words(20))
    reference = ReferenceTable(
        reference_logps(model, pairs, training=training, accelerator=accelerator, what="reference")
    )
    other = copy.deepcopy(model)
    recompute_activations(model)
    values = full_size.gradients(model, pairs, reference, training=training, accelerator=accelerator)
    full_size.update(model, training=training)
    with Interruption() as interruption:
        history = train_policy(
            other,
            pairs,
            reference,
            objective="pair",
            training=training,
            accelerator=accelerator,
            state=StateFolder(tmp_path, task="test"),
            interruption=interruption,
            log=lambda metrics, step: None,
            what="train",
        )
    assert values["loss"] == history["loss"][0]
    assert values["grad_norm"] == history["grad_norm"][0]
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "drawing"), [("showo", "two drawing steps"), ("janus-pro-1b", "eight image tokens")]
)
def test_it_prints_time_and_peak_and_writes_them(tmp_path, backbone, drawing):
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "bench.full_size", "--backbone", backbone, "--size", "tiny", "--threads", "1"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "found.json")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["loss"] == pytest.approx(1.386294, abs=1e-5)  # policy and reference agree at the first step
    assert all(part["seconds"] > 0 and 0 < part["GiB"] < 4 for part in found["parts"].values())
    assert found["backbone"] == backbone and f"{drawing}, float32" in found["parts"]
    assert "GiB of the whole process" in done.stdout


def test_released_sizes():
    """The models that docs/decisions/0008 and 0015 speak of; made-up words are as many as the tokenizer's."""
    for backbone, count in (("showo", 1_448_176_770), ("janus-pro-1b", 2_076_636_811)):
        with torch.device("meta"):
            model = full_size.random_model("released", backbone)
        assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_what_is_frozen_in_pair_dpo_is_frozen_here():
    model = full_size.random_model("tiny", "janus-pro-1b")
    assert len(model.frozen) == 2 and all(not p.requires_grad for part in model.frozen for p in part.parameters())
