"""What a GPU is asked to do, at a tiny size on the CPU, with nothing imported that such a machine may lack."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu_check
from tests.support.plain_paths import PLAIN

ROOT = Path(__file__).parents[2]
LACKING = ("datasets", "dvc", "matplotlib", "mlflow", "peft", "rich", "snakemake")
COMMAND = """
import sys
sys.modules.update(dict.fromkeys({lacking!r}))  # importing one of them fails
from bench import gpu_check
gpu_check.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    subprocess.run(
        [sys.executable, "-c", COMMAND.format(lacking=LACKING), "--device", "cpu", "--output", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "check.json").read_text())


def test_the_contract_suite_runs(results):
    assert results["contract"]["status"] == 0, results["contract"]["tail"]
    assert results["contract"]["passed"] == len(PLAIN) and results["contract"]["failed"] == 0  # a test for each family


def test_every_path_is_measured_in_both_precisions(results):
    rows = results["paths of showo"] + results["full size"]
    assert len(results["paths of showo"]) == 2 * 5 and len(results["full size"]) == 3
    for row in rows:
        assert all(math.isfinite(row[key]) and row[key] > 0 for key in ("seconds", "tokens_per_second"))
        assert 0 < row["fraction_of_limit"] <= 1, row
    assert {row["precision"] for row in rows} == {"no", "bf16"}


def test_every_other_way_computes_the_same_and_is_compared(results):
    ways = {row["way"]: row for row in results["alternatives"]}
    assert list(ways) == ["FlexAttention", "torch.compile", "CUDA graph of a one-token step"]
    for row in ways.values():
        assert "error" not in row, row
        assert row["kept"] == (row["today"] / row["other"] >= 1.1)


def test_the_page_has_a_row_for_each(folder, results):
    lines = (folder / "README.md").read_text().splitlines()
    assert sum(line.startswith("| showo |") for line in lines) == 10
    assert f"The contract suite on this device: {len(PLAIN)} passed, 0 failed." in lines
    assert any(line.startswith("| FlexAttention |") for line in lines)


def test_a_part_that_fails_stops_no_other(monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error: out of memory")

    for part in ("contract", "full", "alternatives"):
        monkeypatch.setattr(gpu_check, part, fail)
    monkeypatch.setattr(gpu_check, "paths", lambda card, size, family: [])
    results = gpu_check.check(torch.device("cpu"), gpu_check.SIZES["tiny"])
    assert results["paths of showo"] == [] and "out of memory" in results["full size"]["error"]
    assert gpu_check.table(results).count("RuntimeError: CUDA error: out of memory") == 3


def test_a_way_that_computes_otherwise_is_refused():
    with pytest.raises(AssertionError):
        gpu_check.check_close(torch.ones(3), torch.tensor([1.0, 1.0, 1.2]), 1e-2)
