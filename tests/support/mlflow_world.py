"""A real MLflow server on a free port, a gate before it that can be shut, and processes that log and die."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """`mlflow server` on sqlite, as docs/mlflow.md has it."""

    def __init__(self, folder: Path, database: Path):
        """Start from a copy of an empty database: to create one takes seconds."""
        shutil.copy(database, folder / "mlflow.db")
        self.folder, self.port, self.job = folder, free_port(), None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--allowed-hosts", "127.0.0.1:*"]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = (self.folder / "log").open("a")
        env = {**os.environ, **quiet}
        self.job = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True, cwd=self.folder)
        for _ in range(1500):
            assert self.job.poll() is None, (self.folder / "log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("mlflow server did not start")

    def kill(self):
        if self.job:
            os.killpg(self.job.pid, signal.SIGKILL)
            self.job.wait()
            self.job = None


class Gate:
    """A port that passes all on to another one while it is open; shut, it hangs up at once."""

    def __init__(self, target: int):
        self._target, self._listening = target, socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.open, self.calls, self.left, self.stuck = True, 0, None, threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listening.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self.calls += 1
            if not self.open:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            for source, sink, counted in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pass, args=(source, sink, counted), daemon=True).start()

    def _pass(self, source, sink, counted):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counted and self.left is not None:
                    if self.left == 0:  # from here on the client waits for ever
                        self.stuck.set()
                        return
                    self.left -= 1
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def forked(work, *arguments):
    """A process of its own that has all modules already, and a function that waits for what it tells next."""
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)
    job = context.Process(target=work, args=(tell.send, *arguments), daemon=True)
    job.start()
    tell.close()  # so that its death ends the waiting
    return job, told.recv
