"""Trainings killed, or out of disk, at every file boundary of the saves of their states: `killed_saves.py FOLDER`.

A first run records the boundaries: every file and folder that is opened for writing, renamed, synced or removed while
a state is saved or dropped, and the middle of every file that is written. Then one run fails at each of them, and the
same command goes on. All runs are forks of this process, which has everything in memory. Prints, as JSON, for 1 and 2
processes the number of boundaries of each kind, and the runs that did not end in the weights of one without faults.
"""

import errno
import gc
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from functools import wraps
from pathlib import Path

import accelerate.utils.other
import pandas as pd
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors import SafetensorError
from safetensors.torch import save_file

from hermesflow.config.load import load_config
from hermesflow.models import backbone
from hermesflow.training.distributed import new_accelerator
from hermesflow.training.interruption import Interruption
from hermesflow.training.logps import ReferenceTable, reference_logps
from hermesflow.training.pair_dpo import train_policy
from hermesflow.training.pairs import HomologousPairs
from hermesflow.training.state import StateFolder
from tests.support.tiny_backbone import Tiny

CAPTIONS = ["a red circle", "two blue squares", "a green cross", "a red square and a blue circle", "three circles"]
WRITES = ("open", "os.mkdir", "os.rename", "os.fsync", "torn")
"""Events that a full disk can refuse."""
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Faults:
    """Counts the file boundaries of this process, and fails at one of them.

    Args:
        folder: of the states; other files do not count.
        fail_at: number of the boundary, from 0; None only counts.
        kind: `kill`, or `full` for a disk that is.
    """

    def __init__(self, folder: Path, fail_at: int | None, kind: str) -> None:
        self.folder, self.fail_at, self.kind = str(folder), fail_at, kind
        self.events: list[tuple[str, int]] = []
        self.armed, self.calls = False, 0
        for name in ("save", "remove"):
            setattr(StateFolder, name, self.arming(getattr(StateFolder, name)))
        torch.save = self.writing(torch.save, RuntimeError("PytorchStreamWriter failed writing file"), path_at=1)
        native = SafetensorError(f"I/O error: {FULL.strerror} (os error 28)")
        accelerate.utils.other.safe_save_file = self.writing(save_file, native, path_at=1)
        Path.write_text = self.writing(Path.write_text, FULL, path_at=0)
        os.fsync = self.before(os.fsync, "os.fsync")
        sys.addaudithook(self.audit)

    def audit(self, event, arguments):
        if not self.armed or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if path.startswith(self.folder) or (event in ("os.remove", "os.rmdir") and not os.path.isabs(path)):
            self.meet(event)

    def meet(self, event: str, torn: Path | None = None, error: Exception = FULL) -> None:
        """Count a boundary; fail if it is the one, after the second half of a file is cut off."""
        self.events.append((event, self.calls))
        if len(self.events) - 1 != self.fail_at:
            return
        if torn is not None:
            os.truncate(torn, torn.stat().st_size // 2)
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise error

    def arming(self, method):
        @wraps(method)
        def armed(*arguments):
            self.armed, self.calls = True, self.calls + 1
            try:
                return method(*arguments)
            finally:
                self.armed = False

        return armed

    def before(self, function, event):
        @wraps(function)
        def call(*arguments):
            if self.armed:
                self.meet(event)
            return function(*arguments)

        return call

    def writing(self, function, error, *, path_at):
        """Of libraries that write without Python: before the file is there, and when half of it is."""

        @wraps(function)
        def call(*arguments, **options):
            path = Path(arguments[path_at])
            if not (self.armed and str(path).startswith(self.folder)):
                return function(*arguments, **options)
            self.meet("open", error=error)
            result = function(*arguments, **options)
            self.meet("torn", torn=path, error=error)
            return result

        return call


class World:
    """What all runs share: a tiny model and its homologous pairs.

    Args:
        folder: for the states and results of the runs.
    """

    def __init__(self, folder: Path) -> None:
        config = load_config(Path(__file__).parents[2] / "config" / "smoke.yaml")
        settings = {"steps": 3, "batch_size": 2, "micro_batch_size": 1, "warmup_steps": 1, "checkpoint_every": 1}
        self.training = replace(config.training, learning_rate=1e-3, **settings)
        language = replace(config.language_model, family=Tiny.family, hidden_size=8)
        config = replace(config, language_model=language, training=self.training)
        self.folder, self.model = folder, backbone.new_model(config, seed=3)
        ids = [f"p{k}" for k in range(5)]
        table = pd.DataFrame({"id": ids, "chosen_caption": CAPTIONS, "rejected_caption": CAPTIONS[::-1]})
        table["rejected_caption"] = table["rejected_caption"] + " cross"
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 8, (5, 2, *self.model.generated.shape), generator=generator).numpy().astype("uint16")
        seen = torch.randint(0, 256, (5, *self.model.seen.shape), generator=generator).numpy().astype("uint8")
        self.pairs = HomologousPairs(
            table.assign(chosen_caption_score=1.0, rejected_caption_score=0.0),
            images=dict(zip(ids, images, strict=True)),
            captions=dict(zip(ids, CAPTIONS, strict=True)),
            seen=dict(zip(ids, seen, strict=True)),
            seed=0,
            iteration=1,
            noise=lambda names: None,
        )
        accelerator = new_accelerator(self.training, device="cpu", precision="no")
        options = {"training": self.training, "accelerator": accelerator, "what": "reference"}
        self.reference = ReferenceTable(reference_logps(self.model, self.pairs, **options))
        self.states = folder / "state"

    def train(self, faults: Faults | None) -> None:
        """Train in this process, one of its job, and write the weights."""
        accelerator = new_accelerator(self.training, device="cpu", precision="no")
        state = StateFolder(self.states, task="one")
        with Interruption() as interruption:
            train_policy(
                self.model,
                self.pairs,
                self.reference,
                objective="pair",
                training=self.training,
                accelerator=accelerator,
                state=state,
                interruption=interruption,
                log=lambda metrics, step: None,
                what="train",
            )
        if accelerator.is_main_process:
            state.remove()
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            save_file(weights, self.folder / "weights.safetensors")
        accelerator.wait_for_everyone()

    def run(self, processes: int, fault: tuple[int, int, str] | None = None) -> list[int]:
        """A job of forks; its exit statuses by rank. `fault`: rank, number of the boundary, kind."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        children = {}
        for rank in range(processes):
            child = os.fork()
            if not child:
                self.be(rank, processes, port, fault)
            children[child] = rank
        statuses, left = [0] * processes, dict(children)
        deadline = time.monotonic() + 60
        while left:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child:
                statuses[left.pop(child)] = status
                if status:  # the others are ended soon, as the launcher does it
                    deadline = min(deadline, time.monotonic() + 0.2)
            elif time.monotonic() > deadline:
                for child in left:
                    os.kill(child, signal.SIGKILL)
            else:
                time.sleep(0.002)
        return statuses

    def be(self, rank: int, processes: int, port: str, fault: tuple[int, int, str] | None) -> None:
        """Be one process of a job, and end."""
        log = self.folder / f"log-{rank}"
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            if processes > 1:
                names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            mine = fault and fault[0] == rank
            faults = Faults(self.states, fault[1] if mine else None, fault[2] if mine else "kill")
            self.train(faults)
            (self.folder / f"events-{rank}.json").write_text(json.dumps(faults.events))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)

    def another_task(self) -> None:
        """Leave whole states of another task, one of them later than all of this: they are removed on the way."""
        for step in (1, 9):
            folder = self.states / f"step-{step:08}"
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(b"other")
            (folder / "progress.json").write_text(json.dumps({"task": "other", "sharded": False, "rows": []}))


def main(folder: Path) -> None:
    """Fail everywhere, and tell."""
    world, report = World(folder), {}
    gc.collect()
    gc.freeze()  # forks then share the memory
    weights = folder / "weights.safetensors"
    for processes in (1, 2):
        world.another_task()
        assert world.run(processes) == [0] * processes, (folder / "log-0").read_text()[-2000:]
        expected = weights.read_bytes()
        events = [json.loads((folder / f"events-{rank}.json").read_text()) for rank in range(processes)]
        counts: Counter[str] = Counter()
        failures = []
        for rank, own in enumerate(events):
            for number, (event, call) in enumerate(own):
                if processes > 1 and call == 1:
                    continue  # as the second, with no state of before
                full = WRITES if processes == 1 else ("torn", "os.rename")
                for kind in ("kill", "full") if event in full else ("kill",):
                    counts[f"{kind} at {event}"] += 1
                    weights.unlink(missing_ok=True)
                    world.another_task()
                    fault = f"{kind} of {rank} at {number} ({event})"
                    status = world.run(processes, (rank, number, kind))[rank]
                    if status == 0 and (kind, event) != ("full", "os.mkdir"):  # of a folder that is there already
                        failures.append(f"{fault}: was survived")
                    whole = sorted(path.name for path in world.states.glob("step-*"))
                    if kind == "full" and list(world.states.glob("unfinished-*")):
                        failures.append(f"{fault}: left {sorted(path.name for path in world.states.iterdir())}")
                    if world.run(processes) != [0] * processes:
                        told = (folder / "log-0").read_text().strip().splitlines()[-1:]
                        failures.append(f"{fault}: did not go on from {whole}: {told}")
                        os.system(f"rm -rf '{world.states}'")
                    elif weights.read_bytes() != expected:
                        failures.append(f"{fault}: other weights, from {whole}")
                    if world.states.exists():
                        failures.append(f"{fault}: states are left")
                        os.system(f"rm -rf '{world.states}'")
        report[processes] = {"counts": counts, "failures": failures}
    print(json.dumps(report))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
