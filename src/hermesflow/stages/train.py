"""Stage `train`: Pair-DPO of one checkpoint, from its parent's weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from hermesflow.config.experiment import Config, as_plain
from hermesflow.config.reads import params_of
from hermesflow.config.tree import iteration, reference_of, training_of
from hermesflow.core import registry
from hermesflow.core.files import Layout, digest_of, new_manifest, read_table, save_manifest, write_table
from hermesflow.core.seeding import seed_of
from hermesflow.models.backbone import load_model, recompute_activations
from hermesflow.stages.reference import load_pairs
from hermesflow.tracking import runs
from hermesflow.training.distributed import check_sharding, new_accelerator
from hermesflow.training.interruption import Interruption
from hermesflow.training.logps import Logps, ReferenceTable
from hermesflow.training.lora import add_adapters, save_adapters
from hermesflow.training.pair_dpo import train_policy
from hermesflow.training.state import StateFolder
from hermesflow.training.stopping import EarlyStopping


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str) -> None:
    """Write `model/` of one checkpoint: weights, history.csv, manifest.json; resume a run that was killed.

    Adapters are merged into the weights, so that every checkpoint is a whole model, and kept in `adapter/` as well.

    Raises:
        ArtifactError: preferences, reference log-probs or the parent's weights are missing or broken.
        ConfigError: training settings that cannot be meant, or early stopping of a sharded training.
        NotFiniteError: a loss, another metric or a gradient is not; the last saved state stays.
        Interrupted: a signal asked to stop; the state is saved.
    """
    with Interruption() as interruption:
        _train(config, layout, seed=seed, checkpoint=checkpoint, interruption=interruption)


def _train(config: Config, layout: Layout, *, seed: int, checkpoint: str, interruption: Interruption) -> None:
    torch.set_num_threads(config.runtime.train_threads)
    entry = config.checkpoints[checkpoint]
    training = training_of(config, checkpoint)
    accelerator = new_accelerator(training, device=config.runtime.device, precision=config.runtime.precision)
    folder = layout.checkpoint(seed, checkpoint)
    parent_model = layout.checkpoint(seed, entry.parent) / "model"
    reference_path = layout.reference(seed, entry.parent, reference_of(config, checkpoint).variant)
    model = load_model(parent_model, device=accelerator.device)
    check_sharding(accelerator, model)
    if config.runtime.activation_checkpointing:
        recompute_activations(model)
    adapted = None
    if training.lora:
        adapted = add_adapters(model, training.lora, seed=seed_of(seed, iteration(config, checkpoint), "adapters"))
    pairs = load_pairs(config, layout, model, seed=seed, checkpoint=checkpoint)
    reference = ReferenceTable(read_table(reference_path, ["id", "pass", *Logps._fields], numbers=Logps._fields))

    inputs = [
        layout.seen("pairs"),
        folder / "preferences" / "preferences.parquet",
        folder / "preferences" / "images.npy",
        reference_path,
        parent_model / "model.safetensors",
    ]
    made_with: dict[str, Any] = {
        "training": as_plain(training),
        "objective": entry.objective,
        "iteration": iteration(config, checkpoint),
    }
    stopping, prompts = None, {}
    if training.stopping:
        inputs += [layout.data("understanding"), layout.data("prompts"), layout.tokenizer / "model.safetensors"]
        made_with["images"] = as_plain(config.sampling.images)
        number = training.stopping.prompts
        strict_acceptance = registry.load("hermesflow.evaluation.worlds", "stopping", "strict_acceptance")
        measure, prompts = strict_acceptance(config, layout, model, prompts=number, seed=seed)
        stopping = EarlyStopping(training.stopping, measure, model, accelerator)
    manifest = new_manifest(config=params_of(config, "train", checkpoint), inputs=inputs, seed=seed)
    task = digest_of([made_with, seed, list(manifest["inputs"].values())])
    state = StateFolder(folder / "state", task=task)
    with runs.open_run(layout, seed, checkpoint, manifest) if accelerator.is_main_process else nullcontext() as tracked:
        history = train_policy(
            model,
            pairs,
            reference,
            objective=entry.objective,
            training=training,
            accelerator=accelerator,
            state=state,
            interruption=interruption,
            log=lambda metrics, step: tracked.log(metrics, step=step) if tracked else None,
            what=f"train {checkpoint}, seed {seed}",
            stopping=stopping,
        )
    if stopping:
        manifest["stopping"] = {"step": stopping.best, "prompts": prompts}
    if adapted:
        weights = accelerator.get_state_dict(adapted)
        if accelerator.is_main_process:
            save_adapters(adapted, folder / "model" / "adapter", weights)
        adapted.merge_and_unload()
    weights = accelerator.get_state_dict(model)  # all processes take part where it is sharded
    if accelerator.is_main_process:
        model.save(folder / "model", weights)
        write_table(folder / "model" / "history.csv", history)
        save_manifest(folder / "model", manifest)
        state.remove()
    accelerator.end_training()
