"""Which jobs of a config are alike in another one, and so need not be computed again."""

import json
import sys

import pytest

from hermesflow.config.load import load_config

from .conftest import JOBS, REPOSITORY

CONFIGS = REPOSITORY / "config"
SHIPPED = sorted((CONFIGS / "robustness").glob("*.yaml"))
TRAINED = {"prefer", "reference", "train", "evaluate", "report", "all"}
SCORED = TRAINED | {"score", "gather_scores", "agreement"}
DRAWN = SCORED | {"sample", "gather_candidates"}
LEFT = {"training": TRAINED, "threshold-0": TRAINED, "threshold-08": TRAINED, "guidance-1": DRAWN}
"""Rules that are left to run; of configs that are not here, those of other scores."""


@pytest.fixture
def alike(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "workflow" / "scripts")
    from start_from import alike

    return alike


def jobs_of(clone, path):
    out = clone.run(sys.executable, JOBS, str(path.relative_to(REPOSITORY)), "0")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def paper_jobs(fresh):
    return jobs_of(fresh, CONFIGS / "pictures-paper.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_variants_of_robustness_take_base_and_what_else_they_do_not_change(fresh, paper_jobs, alike, path):
    jobs = jobs_of(fresh, path)
    config = load_config(path)
    shared = alike(load_config(CONFIGS / "pictures-paper.yaml"), paper_jobs, config, jobs)
    left = [job for job in jobs if job not in shared]
    assert {job["rule"] for job in left} == LEFT.get(path.stem, SCORED)
    assert {job["rule"] for job in shared} >= {"data", "tokenizer", "encode", "clip", "base"}
    assert {job["wildcards"]["checkpoint"] for job in left if job["rule"] == "train"} == set(config.checkpoints)
    made = set()
    for job in shared:
        assert {name for name in job["input"] if name.startswith("results/")} <= made
        made |= set(job["output"])


def test_a_job_of_other_files_is_not_alike_nor_is_what_follows(alike, paper_jobs):
    paper = load_config(CONFIGS / "pictures-paper.yaml")
    other = [job | {"input": [*job["input"], "more.csv"]} if job["rule"] == "encode" else job for job in paper_jobs]
    rules = {job["rule"] for job in alike(paper, paper_jobs, paper, other)}
    assert rules == {"data", "tokenizer", "clip", "judge"}
