"""A clone of this repository, as it stands, in a temporary folder, with an even smaller config than smoke."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from tests.support.one_process import one_process
from tests.support.snakemakes import run_snakemake

REPOSITORY = Path(__file__).parents[2]
JOBS = "workflow/scripts/jobs.py"
TINY = {
    "name": "tiny",
    "data": {"base_pairs": 300, "gap_pairs": 12},
    "sampling": {"images": {"steps": 2}},
    "scoring": {"agreement_pairs": 4},
    "training": {"steps": 30, "batch_size": 2, "checkpoint_every": 1},
    "evaluation": {
        **{"understanding_images": 12, "geneval_prompts": 2, "dense_prompts": 3},
        **{"fid_images": 12, "bootstrap": 20, "clip_steps": 3},
    },
    "runtime": {"tokenizer_threads": 1},
}
CHECKPOINTS = {
    "pair-1": {"parent": "base", "objective": "pair"},
    "pair-2": {"parent": "pair-1", "objective": "pair"},
}


@dataclass
class Clone:
    """A folder with the project's files and the commands a user gives there."""

    root: Path
    name: str = "tiny"

    @property
    def config(self) -> Path:
        return self.root / "config" / f"{self.name}.yaml"

    @property
    def results(self) -> Path:
        return self.root / "results" / self.name

    @property
    def env(self):
        drop = ("DVC_", "SNAKEMAKE_", "MLFLOW_TRACKING_URI")
        env = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        return {**env, "PATH": path, "PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}

    def start(self, *command):
        log = (self.root / "out.log").open("w")
        return subprocess.Popen(command, cwd=self.root, env=self.env, stdout=log, stderr=subprocess.STDOUT)

    def run(self, *command, check=True):
        env = dict(word.split("=", 1) for word in takewhile(lambda word: "=" in word, command[1:]))
        program = command[len(env) + 1 :] if command[0] == "env" else command
        if program[0] == "snakemake" or program[1:2] == (JOBS,):
            status, told = run_snakemake(program, cwd=self.root, env=self.env | env)
            assert not check or status == 0, told[-6000:]
            return told
        done = subprocess.run(
            command, cwd=self.root, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert not check or done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def snakemake(self, *arguments, check=True):
        return self.run("snakemake", "--configfile", f"config/{self.name}.yaml", *arguments, check=check)

    def run_in_one_process(self):
        """The commands of all steps that Snakemake lists, in its order: libraries are imported once, not for each."""
        listed = self.snakemake("--dry-run", "--printshellcmds")
        self.run(*one_process(re.findall(r" -m hermesflow (.*?) 2>&1", listed)))


def make_clone(root: Path) -> Clone:
    """Clone the last commit and lay over it what is changed or new here."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout

    git("clone", "--quiet", str(REPOSITORY), str(root))
    for name in git("ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0"):
        source, target = REPOSITORY / name, root / name
        if name and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target, follow_symlinks=False)
        elif name and not source.exists():
            target.unlink(missing_ok=True)
    clone = Clone(root)
    plain = yaml.safe_load((root / "config" / "smoke.yaml").read_text())
    _update(plain, TINY)
    plain["sampling"]["captions"]["decodings"] = plain["sampling"]["captions"]["decodings"][:4]
    plain["checkpoints"] = CHECKPOINTS
    clone.config.write_text(yaml.safe_dump(plain, sort_keys=False))
    return clone


def _update(plain, changes):
    for key, value in changes.items():
        if isinstance(value, dict):
            _update(plain[key], value)
        else:
            plain[key] = value


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """A clone in which nothing is run for real."""
    return make_clone(tmp_path_factory.mktemp("dry") / "clone")
