"""Every rule of the smoke DAG through sbatch: arrays of shards, training across both nodes, a local run's tables."""

import pytest

from tests.workflow.conftest import make_clone
from tests.workflow.test_real_run import digests

from .conftest import NODES, OnSlurm, edit

MULTI_NODE = "config/accelerate/multi_node.yaml"
pytestmark = pytest.mark.cluster


def test_smoke_through_slurm_gives_the_tables_of_a_local_run(slurm, tmp_path):
    here, there = (make_clone(tmp_path / name) for name in ("here", "there"))
    here.name = "smoke"
    there = OnSlurm(there.root, slurm, "smoke")

    def smaller(plain):
        plain["training"]["micro_batch_size"] = 2
        plain["runtime"]["tokenizer_threads"] = 1
        for more_of_the_same in ("pair-2", "und-1", "gen-1", "pair-1-n2"):
            del plain["checkpoints"][more_of_the_same]

    for clone in (here, there):
        edit(clone.config, smaller)
    edit(there.config, lambda plain: plain["runtime"].update(train_nodes=2, accelerate=MULTI_NODE))
    here.run_in_one_process()
    before = len(slurm.jobs())
    there.run(*there.command)
    jobs = slurm.jobs()[before:]
    of = {rule: [j for j in jobs if j["comment"].startswith(f"rule_{rule}_")] for rule in ("sample", "score", "train")}
    assert all("_" in job["id"] for job in of["sample"] + of["score"])  # tasks of array jobs
    assert {job["node"] for job in of["sample"]} == set(NODES)
    assert {job["node"] for job in of["train"]} == {"n[1-2]"}
    assert digests(there) == digests(here)
