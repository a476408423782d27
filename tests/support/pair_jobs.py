"""Jobs for several processes of one test: `pair_jobs.py FOLDER LAUNCHES`, a JSON list of launches.

A launch is what `accelerate launch` does with a config file of its own, a number of processes, and jobs for them; one
follows the other. The processes are forks of this one, which has the libraries in memory, not new interpreters.

Each job runs stages reference and train in `FOLDER/{name}` with its own settings; `stop_at` has one process alone sent
a SIGTERM after that step, `stages` leaves the reference out, `poison` puts a nan into the gradient of that forward pass
of the last process; `stopping` stops training by a figure of its weights (`stopping_world`).
"""

import json
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import peft  # noqa: F401  forks have it then
import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed import run as launcher
from torch.distributed.launcher.api import elastic_launch

from hermesflow.config.sections import Lora
from hermesflow.core.errors import Interrupted, NotFiniteError
from hermesflow.core.files import Layout
from hermesflow.models.backbone import meta_model
from hermesflow.stages import train
from hermesflow.tracking import runs
from tests.support.pair_world import score_reference, small_config
from tests.support.poison import poisoned_gradient
from tests.support.stopping_world import STOPPING, figure_of_the_weights

CHECKPOINT = "pair-1"
LORA = Lora(rank=4, alpha=8.0, targets=("q_proj", "fc1"))


def run_job(
    folder: Path,
    *,
    name: str,
    training: dict,
    lora: bool = False,
    runtime: dict | None = None,
    stop_at: int = 0,
    stages: tuple[str, ...] = (),
    poison: int = 0,
    stopping: bool = False,
) -> None:
    def log(metrics: dict[str, float], *, step: int) -> None:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    run = nullcontext(SimpleNamespace(log=log))
    config = small_config(**training, lora=LORA if lora else None, stopping=STOPPING if stopping else None)
    config = replace(config, runtime=replace(config.runtime, **(runtime or {})))
    layout = Layout(folder / name)
    if not stages:
        score_reference(config, layout, CHECKPOINT)
    last = str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    figure = figure_of_the_weights(main=os.environ.get("RANK", "0") == "0")
    try:
        with patch.object(runs, "open_run", return_value=run), poisoned_gradient(poison, rank=last), figure:
            train.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    except (Interrupted, NotFiniteError) as stopped:
        assert not (layout.checkpoint(0, CHECKPOINT) / "model").exists()
        parts = sorted(path.name for path in layout.checkpoint(0, CHECKPOINT).rglob("pytorch_model_fsdp_0/*.distcp"))
        print(f"{name}: {stopped} {parts}\n", end="", flush=True)  # in one piece


def process(*arguments: str) -> None:
    """Be one process of a launch; its command line ends with the folder and the jobs."""
    folder, jobs = arguments[-2:]
    Accelerator.end_training = Accelerator.wait_for_everyone  # the processes go on with the next stage
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # accelerate shards on GPUs alone; taking these processes for GPUs is all it needs to shard over gloo
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    for job in json.loads(jobs):
        run_job(Path(folder), **job)


def forked(config, entrypoint):
    """The launcher of processes, with `process` in place of a command."""
    return elastic_launch(replace(config, start_method="fork"), process)


if __name__ == "__main__":
    torch.set_num_threads(1)
    meta_model(small_config())  # imports what all models need
    with patch.object(launcher, "elastic_launch", forked):
        for config, processes, jobs in json.loads(sys.argv[2]):
            options = [f"--config_file={config}", f"--num_processes={processes}"]
            script = [__file__, sys.argv[1], json.dumps(jobs)]
            launch_command(launch_command_parser().parse_args([*options, "--main_process_port=0", *script]))
