"""Order is no reason in the engines themselves: a finished run's config permuted and extended, by dry runs."""

import json
import re
import shutil
import sys

import pytest
import yaml

from hermesflow.config.digests import step_digests
from hermesflow.config.load import load_config

from .conftest import make_clone
from .test_dag import mirrored

TREE = {
    "pair-1": {"parent": "base", "objective": "pair"},
    "pair-2": {"parent": "pair-1", "objective": "pair"},
    "und-1": {"parent": "base", "objective": "understanding"},
    "few": {"parent": "base", "objective": "pair", "candidates": 2},
}
NEW = {"arm": {"parent": "base", "objective": "pair", "beta": 0.9}}


def write(clone, checkpoints, seeds=(0, 1)):
    plain = yaml.safe_load(clone.config.read_text()) | {"checkpoints": checkpoints, "seeds": list(seeds)}
    clone.config.write_text(yaml.safe_dump(plain, sort_keys=False))


def mirror(clone):
    """DVC's stages, and the digests of steps that they compare."""
    clone.run(sys.executable, "-m", "hermesflow", "dvc", "--config", "config/tiny.yaml")
    return mirrored(clone), step_digests(load_config(clone.config))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A clone in which Snakemake knows every job of two seeds as done (of empty files), and its DVC stages."""
    clone = make_clone(tmp_path_factory.mktemp("order") / "clone")
    write(clone, TREE)
    out = clone.run(sys.executable, "workflow/scripts/jobs.py", "config/tiny.yaml")
    for line in filter(lambda line: line.startswith("{"), out.splitlines()):
        for path in json.loads(line)["output"]:
            (clone.root / path).parent.mkdir(parents=True, exist_ok=True)
            (clone.root / path).touch()
    clone.snakemake("--touch", "--forceall", "--quiet", "all")
    for shards in list(clone.results.rglob("candidates/shards")):
        shutil.rmtree(shards)
    assert "Nothing to be done" in clone.snakemake("--dry-run")
    return clone, *mirror(clone)


def stale(clone):
    """Rule and checkpoint of the jobs that a dry run lists."""
    commands = re.findall(r" -m hermesflow (\w+) (.*)", clone.snakemake("--dry-run", "--printshellcmds"))
    return sorted((rule, *re.findall(r"--checkpoint (\S+)", rest)) for rule, rest in commands)


def test_nothing_runs_for_another_order(finished):
    clone, stages, steps = finished
    write(clone, dict(reversed(TREE.items())), seeds=(1, 0))
    assert "Nothing to be done" in clone.snakemake("--dry-run")
    assert mirror(clone) == (stages, steps)


@pytest.mark.parametrize("place", [0, len(TREE)])
def test_a_new_line_costs_its_own_steps_and_the_report_wherever_it_stands(finished, place):
    clone, stages, steps = finished
    lines = list(TREE.items())
    lines[place:place] = NEW.items()
    write(clone, dict(lines))
    own = ("prefer", "train", "evaluate")
    assert stale(clone) == sorted([*((rule, "arm") for rule in own for _ in range(2)), ("report",)])
    new_stages, new_steps = mirror(clone)
    changed = {key[1] for key, stage in stages.items() if new_stages[key] != stage}
    assert changed == {"report"} and {key[1] for key in new_stages.keys() - stages.keys()} == set(own)
    assert {step for step in steps if steps[step] != new_steps[step]} == {"report"}


def test_a_checkpoint_that_goes_takes_nothing_with_it(finished):
    """Also where it was the first of those that share a reference."""
    clone, stages, steps = finished
    write(clone, {name: entry for name, entry in TREE.items() if name != "few"})
    assert stale(clone) == [("report",)]
    write(clone, {"renamed": TREE["und-1"], **{k: v for k, v in TREE.items() if k != "und-1"}})
    own = ("prefer", "train", "evaluate")
    assert stale(clone) == sorted([*((rule, "renamed") for rule in own for _ in range(2)), ("report",)])
    new_stages, new_steps = mirror(clone)
    assert {key[1] for key in stages.keys() & new_stages.keys() if stages[key] != new_stages[key]} == {"report"}
    assert {step for step in steps.keys() & new_steps.keys() if steps[step] != new_steps[step]} == {"report"}
