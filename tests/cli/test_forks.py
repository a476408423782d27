"""The server that forks the steps of a run, with steps that need no library."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hermesflow.cli.forks import SOCKET

SERVER = """
import sys
from pathlib import Path
import hermesflow.cli.main as cli
from hermesflow.cli.forks import serve

def run(config, layout, **options):
    exec(Path("step.py").read_text(), {"options": options})

class Stage:
    run = staticmethod(run)

sys.modules["hermesflow.stages.judge"] = Stage
sys.exit(serve(Path("forks.sock"), ("json",), cli.main))
"""
STEP = (sys.executable, "-m", "hermesflow", "judge", "--config", "smoke.yaml")
SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "smoke.yaml").write_bytes(SMOKE.read_bytes())
    return tmp_path


@pytest.fixture
def server(folder):
    """A server whose one stage runs step.py, in a folder where another server was killed."""
    path = folder / "forks.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(path))
    stale = path.stat().st_ctime_ns
    process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=folder, stdin=subprocess.PIPE)
    while not path.exists() or path.stat().st_ctime_ns == stale:
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    process.stdin.close()
    assert process.wait(10) == 0
    assert not (folder / "forks.sock").exists()


def start(folder, step, command=STEP, **environment):
    (folder / "step.py").write_text(step)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, SOCKET: "forks.sock", **environment}, **streams)


def test_a_fork_has_the_steps_folder_environment_and_streams(server, folder):
    step = """
import json, os, sys
print(json.dumps([os.getcwd(), os.environ["GIVEN"], os.environ["OMP_NUM_THREADS"], os.getpid()]))
print("told", file=sys.stderr)
"""
    client = start(folder, step, GIVEN="a value")
    output, errors = client.communicate()
    place, given, threads, pid = json.loads(output)
    assert client.returncode == 0, errors
    assert (place, given, threads) == (str(folder), "a value", "1")
    assert pid not in (client.pid, server.pid)
    assert errors.startswith("told\njudge: ") and "GiB at most" in errors


@pytest.mark.parametrize(
    ("step", "status", "told"),
    [
        ("from hermesflow.core.errors import DataError\nraise DataError('f: mend it')", 1, "judge: f: mend it"),
        ("raise KeyError('a defect')", 1, "KeyError: 'a defect'"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_a_step_ends_as_its_fork_ends(server, folder, step, status, told):
    client = start(folder, step)
    assert told in client.communicate()[1]
    assert client.returncode == status


WAITING = """
import os, signal, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: Path("warned").touch())
Path("pid").write_text(str(os.getpid()))
while not Path("warned").exists():
    time.sleep(0.01)
"""


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_warning_reaches_the_fork(server, folder):
    client = start(folder, WAITING)
    until((folder / "pid").exists)
    client.terminate()
    client.communicate()
    assert client.returncode == 0
    assert (folder / "warned").exists()


def test_a_fork_does_not_outlive_who_asked(server, folder):
    client = start(folder, WAITING)
    until((folder / "pid").exists)
    time.sleep(0.1)
    fork = int((folder / "pid").read_text())
    client.kill()
    client.communicate()
    until(lambda: not Path(f"/proc/{fork}").exists())


def test_steps_run_beside_each_other(server, folder):
    clients = [start(folder, "import time\ntime.sleep(0.2)\nprint(options)") for _ in range(2)]
    # the lock of a step lets the second wait for the first: both are there, none is lost
    assert [client.communicate()[0] for client in clients] == ["{}\n", "{}\n"]


def test_without_a_server_a_step_runs_by_itself(folder):
    quick = (*STEP[:3], "prefer", *STEP[4:], "--seed", "0", "--checkpoint", "pair-1")
    client = start(folder, "", quick)
    errors = client.communicate()[1]
    assert client.returncode == 1 and "hermesflow prefer: " in errors  # the real stage, which has no data here
