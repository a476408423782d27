"""One training job on any number of processes: how a step's batch is cut, and the accelerator that joins the parts.

The micro batch is the unit of rounding. What it holds is a function of the step and the config, whoever works on it;
only the order in which micro batches are added up follows from the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from accelerate import Accelerator, DistributedType
from torch import nn

from hermesflow.config.sections import Training
from hermesflow.core.errors import ConfigError
from hermesflow.core.seeding import deterministic
from hermesflow.training.pairs import Row


def new_accelerator(training: Training, *, device: str, precision: str) -> Accelerator:
    """The accelerator of one training job; a job started by `hermesflow launch` on N processes uses all of them.

    Raises:
        ConfigError: sharding on the CPU, or hyper-parameters that cannot be meant, see `check_training`.
    """
    if device == "cpu":
        deterministic()
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and accelerator.distributed_type != DistributedType.FSDP:
        raise ConfigError(
            f"runtime.accelerate asks for FSDP, which accelerate does on GPUs alone: on device {device} it would "
            "silently give every process the whole model. Take config/accelerate/ddp.yaml."
        )
    check_training(training, processes=accelerator.num_processes)
    part = micro_batch_size(training, processes=accelerator.num_processes) * accelerator.num_processes
    accelerator.gradient_accumulation_steps = training.batch_size // part
    return accelerator


def check_sharding(accelerator: Accelerator, model: nn.Module) -> None:
    """Refuse an accelerate config that shards by layers of another model.

    Raises:
        ConfigError: names the layers.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    names = set(plugin.transformer_cls_names_to_wrap or ()) if plugin else set()
    if absent := names - {type(module).__name__ for module in model.modules()}:
        raise ConfigError(
            f"runtime.accelerate: fsdp_transformer_layer_cls_to_wrap names {', '.join(sorted(absent))}, which this "
            "model does not have. Leave the key out: its decoder layers are taken then."
        )


def check_training(training: Training, *, processes: int) -> None:
    """Refuse a warm-up that training never leaves and batches that cannot be divided.

    Raises:
        ConfigError: says which key to change.
    """
    if training.warmup_steps >= training.steps:
        raise ConfigError(
            f"training: warmup_steps is {training.warmup_steps}, but there are only {training.steps} steps, so the "
            "learning rate would never reach its value. Lower warmup_steps or raise steps."
        )
    micro = micro_batch_size(training, processes=processes)
    if training.batch_size % (micro * processes):
        raise ConfigError(
            f"training: batch_size {training.batch_size} cannot be divided into micro batches of {micro} for each of "
            f"{processes} processes. Change batch_size, micro_batch_size or runtime.train_processes so that batch_size "
            f"is a multiple of {micro * processes}."
        )


def micro_batch_size(training: Training, *, processes: int) -> int:
    """Pairs in a forward pass: as configured, or the whole share of a process."""
    return training.micro_batch_size or max(training.batch_size // processes, 1)


def micro_batches(
    rows: Sequence[Row], step: int, training: Training, accelerator: Accelerator
) -> Iterator[Sequence[Row]]:
    """This process's micro batches of a step; those of all processes in turn make up the step's batch."""
    first, end = (step - 1) * training.batch_size, step * training.batch_size
    size = micro_batch_size(training, processes=accelerator.num_processes)
    for start in range(first + accelerator.process_index * size, end, accelerator.num_processes * size):
        yield rows[start : start + size]
