"""Jobs for several processes of one test: `torchrun pair_jobs.py FOLDER JOBS`, JOBS being a JSON list.

Each job runs stages reference and train in `FOLDER/{name}` with its own settings; `stop_at` has one process alone sent
a SIGTERM after that step, `stages` leaves the reference out.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from accelerate import Accelerator

from hermesflow import tracking
from hermesflow.artifacts import Layout
from hermesflow.errors import Interrupted
from hermesflow.stages import reference, train
from pair_world import small_config

CHECKPOINT = "pair-1"


def run_job(folder: Path, *, name: str, training: dict, stop_at: int = 0, stages: tuple[str, ...] = ()) -> None:
    def log(metrics: dict[str, float], *, step: int) -> None:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    silent = {"log_inputs": lambda *a, **k: None, "log_samples": lambda *a, **k: None}
    tracking.open_run = lambda *a, **k: SimpleNamespace(log=log, **silent)
    config = small_config(**training)
    for stage in (reference, train):
        if not stages or stage.__name__.rpartition(".")[2] in stages:
            try:
                stage.run(config, Layout(folder / name), seed=0, checkpoint=CHECKPOINT)
            except Interrupted as stopped:
                print(f"{name}: {stopped}", flush=True)


if __name__ == "__main__":
    Accelerator.end_training = Accelerator.wait_for_everyone  # the processes go on with the next stage
    for job in json.loads(sys.argv[2]):
        run_job(Path(sys.argv[1]), **job)
