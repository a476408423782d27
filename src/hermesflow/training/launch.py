"""One training stage on several processes and nodes: `python -m hermesflow launch train ...`.

accelerate reads its config file and hands over to torch's elastic agent (torchrun), which starts this node's processes
and ends them all when one fails. More than one node needs a Slurm allocation and one launcher per node:

    srun --nodes=2 --ntasks=2 --ntasks-per-node=1 python -m hermesflow launch train ...

Signals are handled here: the agent would kill processes that take more than 30 seconds to save their state.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil
import yaml

from hermesflow.config.sections import Runtime
from hermesflow.core.errors import ConfigError, HermesflowError, Interrupted

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)


def launch(runtime: Runtime, command: Sequence[str]) -> None:
    """Run `python -m hermesflow COMMAND` in every process that this node is to have, and wait for them.

    Args:
        runtime: nodes, processes per node, and the accelerate config file.
        command: stage and options.

    Raises:
        ConfigError: processes that cannot be started as asked.
        HermesflowError: a process failed; the others were ended.
        Interrupted: a signal ended them all; the same command goes on.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = accelerate_options(runtime, os.environ)
    arguments = launch_command_parser().parse_args([*options, "--module", "hermesflow", *command])
    arguments.signals_to_handle = "SIGHUP,SIGQUIT"  # torchrun's own: ours are not among them
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it would call a stopped process failed
    with _signals_passed_on() as received:
        try:
            launch_command(arguments)
            return
        except ChildFailedError as error:
            statuses = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except subprocess.CalledProcessError as error:  # accelerate's launcher of a single process
            statuses = {0: error.returncode}
    stopped = {Interrupted.status, *(-number for number in PASSED_ON)}
    if stopped.issuperset(statuses.values()) and (received or Interrupted.status in statuses.values()):
        raise Interrupted(f"{command[0]} was stopped by a signal; the same command goes on with it.")
    failed = {rank: status for rank, status in statuses.items() if status != -signal.SIGTERM} or statuses
    failures = ", ".join(f"process {rank} ended with status {status}" for rank, status in sorted(failed.items()))
    raise HermesflowError(f"{command[0]}: {failures}, so all were ended. The error is printed above.")


def accelerate_options(runtime: Runtime, environment: Mapping[str, str]) -> list[str]:
    """Options of `accelerate launch` for this node.

    Args:
        runtime: nodes, processes per node, and the accelerate config file.
        environment: where Slurm says which node this is.

    Raises:
        ConfigError: no accelerate config file or one that starts a single process, or more nodes than Slurm gave.
    """
    processes = runtime.train_nodes * runtime.train_processes
    _check_file(runtime.accelerate, processes)
    options: dict[str, object] = {
        "config_file": runtime.accelerate,
        "num_machines": runtime.train_nodes,
        "num_processes": processes,
        "machine_rank": 0,
        "main_process_port": 0,  # any free one
    }
    if runtime.train_nodes > 1:
        options |= _meeting_point(runtime.train_nodes, environment)
    return [f"--{name}={value}" for name, value in options.items()]


def _check_file(path: str | None, processes: int) -> None:
    if path is None:
        raise ConfigError(
            f"runtime.accelerate: {processes} launched training processes need an accelerate config file. "
            "Set it, e.g. to config/accelerate/ddp.yaml."
        )
    try:
        kind = yaml.safe_load(Path(path).read_text())["distributed_type"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"runtime.accelerate: {path} is not an accelerate config file ({type(error).__name__}: {error}). "
            "Take one of config/accelerate."
        ) from error
    if processes > 1 and kind in ("NO", "MULTI_CPU"):
        raise ConfigError(
            f"runtime.accelerate: {path} has distributed_type {kind}, which starts one process where {processes} are "
            "asked for (accelerate starts MULTI_CPU through mpirun). MULTI_GPU starts them, on the CPU too."
        )


def _meeting_point(nodes: int, environment: Mapping[str, str]) -> dict[str, object]:
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "none")
    if tasks != str(nodes):
        raise ConfigError(
            f"runtime.train_nodes is {nodes}, but this step of Slurm has {tasks} tasks. Start one launcher per node: "
            f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 python -m hermesflow launch ..."
        )
    return {
        "machine_rank": environment["SLURM_NODEID"],
        "main_process_ip": environment.get("SLURM_LAUNCH_NODE_IPADDR")
        or _first_node(environment["SLURM_STEP_NODELIST"]),
        "main_process_port": 20_000 + int(environment["SLURM_JOB_ID"]) % 20_000,  # two jobs on a node do not meet
    }


def _first_node(nodes: str) -> str:
    """Address of the first of some nodes, as Slurm knows it."""
    command = ["scontrol", "show", "node", "--oneliner", nodes]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(field.split("=", 1) for field in output.stdout.splitlines()[0].split() if "=" in field)["NodeAddr"]


@contextmanager
def _signals_passed_on() -> Iterator[list[int]]:
    """Send signals on to the processes started here; gives those received."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        processes = psutil.Process().children()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if not processes:
            raise Interrupted("stopped by a signal before anything was started; run the same command again.")

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
