"""A real Slurm on this machine (mini_slurm.sh), and clones of this repository whose jobs it runs."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from tests.workflow.conftest import Clone, make_clone
from tests.workflow.test_real_run import digests, kill_tree

SCRIPT = Path(__file__).parent / "mini_slurm.sh"
NODES = ("n1", "n2")
SECONDS = 600
DDP = "config/accelerate/ddp.yaml"
PROFILE = ("--workflow-profile", "workflow/profiles/slurm")


def wait_until(true, what, seconds=SECONDS):
    """Wait for a condition; its value."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.1)
    return found


class Slurm:
    """The mini cluster: two nodes on this machine, and the accidents that happen to them."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.env = {**os.environ, "SLURM_CONF": str(state / "slurm.conf")}

    def run(self, *command):
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self):
        """All jobs Slurm remembers, newest last: id, comment (names the rule), state, node, restarts."""
        lines = self.run("squeue", "--states=all", "--noheader", "--sort=i", "--format=%i|%k|%T|%N").splitlines()
        return [dict(zip(("id", "comment", "state", "node"), line.split("|"), strict=True)) for line in lines]

    def running(self, rule):
        """Jobs of a rule that run now."""
        return [j for j in self.jobs() if j["state"] == "RUNNING" and j["comment"].startswith(f"rule_{rule}_")]

    def restarts(self, job):
        """How often Slurm has started a job again."""
        words = self.run("scontrol", "show", "job", job).split()
        return int(next(word for word in words if word.startswith("Restarts=")).removeprefix("Restarts="))

    def fail_node(self, node):
        """The node dies with all that runs on it."""
        here = [job["id"] for job in self.jobs() if job["node"] == node and job["state"] == "RUNNING"]
        kill_tree(psutil.Process(int((self.state / f"slurmd-{node}.pid").read_text())))
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(process.info["cmdline"] or [])
            if any(title.startswith(f"slurmstepd: [{job}.") for job in here):
                kill_tree(process)

    def mend_node(self, node):
        self.run("slurmd", "-N", node)

    def kill_controller(self):
        psutil.Process(int((self.state / "slurmctld.pid").read_text())).kill()

    def start_controller(self):
        self.run("slurmctld")


class MlflowServer:
    """A real MLflow server on sqlite, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.folder, self.port, self.uri, self.process = folder, port, f"http://127.0.0.1:{port}", None

    def start(self):
        store = ("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1")
        place = ("--artifacts-destination", self.folder / "artifacts", "--port", str(self.port))
        log = (self.folder / "server.log").open("a")
        command = (Path(sys.executable).with_name("mlflow"), "server", *store, *place)
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        wait_until(self._answers, "MLflow server")

    def kill(self):
        if self.process and self.process.poll() is None:
            kill_tree(psutil.Process(self.process.pid))
            self.process.wait()

    def steps(self, run, metric):
        """Steps at which a metric of a run was logged."""
        client = MlflowClient(self.uri)
        experiments = [e.experiment_id for e in client.search_experiments()]
        found = [r for r in client.search_runs(experiments) if r.info.run_name == run]
        return [point.step for point in client.get_metric_history(found[0].info.run_id, metric)]

    def _answers(self):
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        except OSError:
            return False


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if not (shutil.which("slurmctld") and shutil.which("munged") and os.geteuid() == 0):
        pytest.fail("needs root and Slurm: apt-get install --no-install-recommends slurm-wlm munge")
    state = tmp_path_factory.mktemp("slurm")
    for folder in (state, *state.parents[:2]):
        folder.chmod(0o755)
    subprocess.run([SCRIPT, "up", state, str(len(NODES))], check=True)
    yield Slurm(state)
    subprocess.run([SCRIPT, "down", state], check=True)


def edit(path: Path, change):
    """Change a YAML file as a user would: load, `change(plain)`, write."""
    plain = yaml.safe_load(path.read_text())
    change(plain)
    path.write_text(yaml.safe_dump(plain, sort_keys=False))


def for_this_machine(profile):
    """What a user edits in the Slurm profile, for nodes of 8 GB and jobs of seconds."""
    for needs in profile["set-resources"].values():
        needs |= {"mem_mb": "2000 * attempt", "runtime": "20 * attempt"}
    profile["set-resources"]["train"]["slurm_extra"] = "'--signal=TERM@30'"
    profile |= {"slurm-init-seconds-before-status-checks": 1, "latency-wait": 10}


class OnSlurm(Clone):
    """A clone that is run through Slurm; `more` is added to the environment of its jobs."""

    def __init__(self, root: Path, slurm: Slurm, name: str = "tiny") -> None:
        super().__init__(root, name)
        self.slurm, self.more = slurm, {}
        edit(root / "workflow" / "profiles" / "slurm" / "config.yaml", for_this_machine)

    @property
    def env(self):
        return {**super().env, "SLURM_CONF": self.slurm.env["SLURM_CONF"], **self.more}

    @property
    def command(self):
        """The one command of a cluster user."""
        return ("workflow/run", "--configfile", f"config/{self.name}.yaml", *PROFILE)

    @property
    def out(self):
        """What the run said so far."""
        return (self.root / "out.log").read_text()


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """A clone after a run of the tiny config on this machine, with one checkpoint, and its hashes."""
    clone = make_clone(tmp_path_factory.mktemp("local") / "clone")

    def smaller(plain):
        del plain["checkpoints"]["pair-2"]
        plain["training"] |= {"steps": 150, "micro_batch_size": 1, "checkpoint_every": 2}

    edit(clone.config, smaller)
    clone.run("workflow/run", "--configfile", "config/tiny.yaml")
    return clone, digests(clone)


@pytest.fixture
def clone(slurm, local, tmp_path):
    """A copy of the local clone that has its base model and all before it, but nothing that comes after."""
    root = tmp_path / "clone"
    shutil.copytree(local[0].root, root, symlinks=True)
    for gone in ("report", "seed0/base/candidates", "seed0/base/scores", "seed0/pair-1"):
        shutil.rmtree(root / "results" / "tiny" / gone)
    clone = OnSlurm(root, slurm)
    edit(clone.config, lambda plain: plain["runtime"].update(train_processes=2, accelerate=DDP))
    yield clone
    subprocess.run(["scancel", "--full", "--user=root"], env=slurm.env, check=False)
