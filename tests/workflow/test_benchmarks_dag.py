"""config/showo.yaml, every size made small, from a hub to its tables by `workflow/run`: real benchmarks in the DAG.

lmms-eval has an environment of its own, whose interpreter LMMS_PYTHON names (`make test-lmms`).
"""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from hermesflow.config.benchmarks import Understanding
from hermesflow.config.experiment import as_plain
from hermesflow.data.pairs import read_pairs
from tests.support import benchmark_world
from tests.support.chat_server import ChatServer, first_choice
from tests.support.hub_server import HubServer
from tests.support.paper_world import lay_over, release, small_config

from .conftest import Clone, make_clone

pytestmark = pytest.mark.lmms
SRC = Path(__file__).parents[2] / "src"
CHECKPOINTS = ["base", "pair-1"]
KEY, SECRET = "JUDGE_KEY_OF_THE_TEST", "secret" + "-of-the-test"  # this file is in the clone, too
TASKS = """
import sys
from pathlib import Path
from tests.lmms import world
for name in ("pope_random", "pope_pop", "pope_adv"):
    world.pope(Path(sys.argv[1]), name, [(1, 1, "yes"), (2, 2, "no")])
"""
"""Two questions for each of POPE's tasks, in the form of the hub's data set."""


@dataclasses.dataclass
class Online(Clone):
    """A clone whose commands see the hub and have a key for the judge."""

    outside: dict = dataclasses.field(default_factory=dict)

    @property
    def env(self):
        return {**self.outside, **super().env, KEY: SECRET}


def benchmarks(folder, judge):
    """What the paper's tables need, with files in the benchmarks' own formats and tiny models of the true classes."""
    folder.mkdir()
    made = benchmark_world.sections(folder, judge)
    python, tasks = str(Path(os.environ["LMMS_PYTHON"]).absolute()), str(folder / "tasks")
    paths = os.pathsep.join((str(SRC.parent), str(SRC)))
    subprocess.run([python, "-c", TASKS, tasks], check=True, env={**os.environ, "PYTHONPATH": paths})
    own = Understanding(columns=("pope",), batch_size=2, python=python, tasks=tasks, cache=str(folder / "hf"))
    return as_plain(dataclasses.replace(made, understanding=own))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dag")
    with HubServer() as hub, ChatServer() as judge:
        clone = Online(make_clone(folder / "clone").root, "showo", hub.environment(folder / "cache", MPLBACKEND="agg"))
        release(hub, folder, "showo")
        judge.message = first_choice
        settings = dataclasses.replace(judge.settings(folder / "judge"), key_variable=KEY)
        plain = {
            **lay_over(small_config(folder, "showo"), {"runtime": {"shards": 1}}),
            "benchmarks": benchmarks(folder / "bench", settings),
        }
        clone.config.write_text(yaml.safe_dump(plain))
        pins = clone.run("python", "-m", "hermesflow", "fetch", "--pin", "--config", "config/showo.yaml")
        plain = lay_over(plain, yaml.safe_load(pins[pins.index("data:") :]))
        clone.config.write_text(yaml.safe_dump(plain))
        clone.run("python", "-m", "hermesflow", "fetch", "--config", "config/showo.yaml")
        clone.run_in_one_process()
        yield clone, judge


def table(clone, name):
    return pd.read_csv(clone.results / "report" / "tables" / f"{name}.csv")


def notes(clone, name):
    """What stands under a table, by its first word."""
    lines = (clone.results / "report" / "tables" / f"{name}.md").read_text().splitlines()
    return {line.removeprefix("- ").partition(":")[0]: line for line in lines if line.startswith("- ")}


def test_pope_is_the_share_of_right_answers(done):
    """Three tasks of two questions each."""
    clone, _ = done
    values = table(clone, "table1_understanding").set_index("model")["pope"]
    for name in CHECKPOINTS:
        rows = pd.read_parquet(clone.results / "seed0" / name / "benchmarks" / "pope" / "rows.parquet")
        assert len(rows) == 6 and set(rows["answer"]) <= {"yes", "no"}
        assert values[name] == pytest.approx(100 * (rows["answer"] == rows["target"]).mean())
    assert "by lmms-eval 0.7.3; 2 items; run seeds 0" in notes(clone, "table1_understanding")["pope"]


def test_geneval_and_dpg(done):
    """The detector sees cats alone: of seven prompts one of one object is right. The VQA model says yes."""
    clone, _ = done
    rows = table(clone, "table2_generation").set_index("model").loc[CHECKPOINTS]
    assert rows["single_object"].tolist() == [0.5, 0.5] and rows["counting"].tolist() == [0, 0]
    assert rows["overall"].tolist() == pytest.approx([0.5 / 6] * 2, abs=1e-6) and rows["dpg"].tolist() == [100, 100]
    assert {"geneval", "dpg"} <= notes(clone, "table2_generation").keys()


def test_coco(done):
    clone, _ = done
    rows = table(clone, "table3_fidelity").set_index("model").loc[CHECKPOINTS]
    assert (rows["fid"] > 0).all() and (rows["clip_score"] > 0).all() and rows["clip_score_low"].notna().all()
    assert "for each of 3 captions" in notes(clone, "table3_fidelity")["coco"]


def test_gap(done):
    """The judge takes the first choice: drawn images are right where the first choice is."""
    clone, _ = done
    questions = [q for row in read_pairs(clone.results / "data" / "gap.parquet") for q in row["questions"]]
    first = sum(q["choices"][0] == q["answer"] for q in questions) / len(questions)
    rows = table(clone, "table4_gap").dropna(subset="generation").set_index("protocol")
    assert rows.loc[["paper", "same-judge"], "generation"].tolist() == pytest.approx([first] * 4, abs=1e-6)
    assert set(rows.loc["self", "checkpoint"]) == set(CHECKPOINTS)
    assert f"questions {len(questions)}; cost: answers" in notes(clone, "table4_gap")["gap"]


def test_a_second_run_has_nothing_to_do(done):
    clone, _ = done
    assert "Nothing to be done" in clone.run("snakemake", "--configfile", "config/showo.yaml", "--dry-run")


def test_answers_are_paid_once(done):
    """By no checkpoint twice, and not again where the grading is lost."""
    clone, judge = done
    paid = [json.dumps(one.body, sort_keys=True) for one in judge.requests]
    assert len(set(paid)) == len(paid) == len(judge.paid) > 0
    folder = clone.results / "seed0" / "base" / "benchmarks" / "gap"
    before = {name: (folder / name).read_bytes() for name in ("rows.parquet", "units.parquet", "facts.json")}
    for name in before:
        (folder / name).unlink()
    wanted = str((folder / "rows.parquet").relative_to(clone.root))
    clone.run("workflow/run", "--configfile", "config/showo.yaml", "--resources", "judge=1", "--", wanted)
    assert len(judge.requests) == len(paid)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_the_key_is_written_nowhere(done):
    clone, judge = done
    assert {one.authorization for one in judge.requests} == {f"Bearer {SECRET}"}
    files = [path for path in clone.root.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
