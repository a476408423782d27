"""A process that has the libraries in memory and forks the steps of a run on this machine.

Importing torch, transformers and what they need takes most of the time of a short step. `workflow/run` starts this
server beside Snakemake; it imports them when the first step asks and ends when Snakemake does. A step lends it its
arguments, environment, folder and streams through a socket and ends as its fork ends: with the same status, by the
same signal. Where there is no server (on a cluster, in a container) a step runs by itself.

    exec 8> >(python -m hermesflow forks .snakemake/forks.sock)
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

SOCKET = "HERMESFLOW_FORKS"
"""Environment variable: where the server listens."""
THREADS = 1
"""Of each fork: libraries read their number of threads once, when they are loaded."""
FORWARDED = (signal.SIGTERM, signal.SIGUSR1)
"""What may be sent to a step alone; Ctrl-C reaches all processes of a terminal."""


def run_forked(arguments: Sequence[str]) -> int | None:
    """Run one command line of `hermesflow` in a fork of the server.

    Returns:
        Its exit status; None where no server answers, and nothing was run.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(os.environ[SOCKET])
        except OSError:
            return None
        environment = {name: value for name, value in os.environ.items() if name != SOCKET}
        send_request(connection, arguments, folder=os.getcwd(), environment=environment, streams=(0, 1, 2))
        for number in FORWARDED:
            signal.signal(number, lambda number, _: connection.send(bytes([number])))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        answer = connection.recv(64)
    if not answer:
        raise ConnectionError("the process that forks the steps of this run was killed; give the same command again")
    status = int(answer)
    if status < 0:
        if -status in (*FORWARDED, signal.SIGINT):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def send_request(
    connection: socket.socket,
    arguments: Sequence[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    streams: Sequence[int],
) -> None:
    """Ask a server for a fork that runs a command line in a folder; `streams` are its first file descriptors."""
    request = {"arguments": list(arguments), "folder": folder, "environment": dict(environment)}
    socket.send_fds(connection, [json.dumps(request).encode()], streams)


def serve(path: Path, modules: tuple[str, ...], run: Callable[[Sequence[str]], int]) -> int:
    """Import modules at the first request and fork a process for each, until standard input ends.

    Args:
        path: of the socket.
        modules: what forks have in memory.
        run: runs one command line and returns its exit status.

    Returns:
        An exit status: the server's, or in a fork that of what it ran.
    """
    signals = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGCHLD, *FORWARDED)}
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            _import(modules)
            with connection:
                if os.fork() == 0:
                    listener.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return _supervise(connection, signals, run)
    path.unlink()
    return 0


@cache
def _import(modules: tuple[str, ...]) -> None:
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()


def _supervise(
    connection: socket.socket, signals: dict[signal.Signals, signal._HANDLER], run: Callable[[Sequence[str]], int]
) -> int:
    """Fork what a connection asks for, pass signals on to it, and tell how it ended; it does not outlive who asked."""
    message, streams, _, _ = socket.recv_fds(connection, 2**20, 3)
    request = json.loads(message)
    worker = os.fork()
    if worker == 0:
        connection.close()
        for name, handler in signals.items():
            signal.signal(name, handler)
        for descriptor, stream in enumerate(streams):
            os.dup2(stream, descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        return run(request["arguments"])
    for stream in streams:
        os.close(stream)
    end = os.pidfd_open(worker)
    while end not in select.select([connection.fileno(), end], [], [])[0]:
        warning = connection.recv(1)
        os.kill(worker, warning[0] if warning else signal.SIGKILL)
        if not warning:
            break
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with contextlib.suppress(OSError):  # who asked was killed
        connection.send(str(status).encode())
    os._exit(0)
