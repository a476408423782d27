"""Launching on several processes and nodes: the options first, then real jobs."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hermesflow.core.errors import ConfigError
from hermesflow.core.files import Layout
from hermesflow.stages import prefer
from hermesflow.training.launch import accelerate_options
from tests.support.pair_world import CommandLine, make_world, score_reference, small_config
from tests.support.steps import step_server

ACCELERATE = Path(__file__).parents[2] / "config" / "accelerate"
CHECKPOINT = "pair-1"
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[7-8]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
}


def runtime(nodes: int = 1, processes: int = 2, file: str | None = "ddp.yaml"):
    path = None if file is None else str(ACCELERATE / file)
    return replace(small_config().runtime, train_nodes=nodes, train_processes=processes, accelerate=path)


def test_one_node_takes_any_free_port():
    assert accelerate_options(runtime(), SLURM) == [
        f"--config_file={ACCELERATE / 'ddp.yaml'}",
        "--num_machines=1",
        "--num_processes=2",
        "--machine_rank=0",
        "--main_process_port=0",
    ]


def test_nodes_meet_where_slurm_says():
    options = accelerate_options(runtime(nodes=2, processes=4, file="multi_node.yaml"), SLURM)
    assert options[1:] == [
        "--num_machines=2",
        "--num_processes=8",
        "--machine_rank=1",
        "--main_process_port=23456",
        "--main_process_ip=10.0.0.7",
    ]


def test_without_sruns_address_scontrol_is_asked_for_the_first_node(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\necho "NodeName=$4 NodeAddr=10.0.0.9 NodeHostName=x"\necho "NodeName=n8 NodeAddr=y"\n'
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    named = {key: value for key, value in SLURM.items() if key != "SLURM_LAUNCH_NODE_IPADDR"}
    assert "--main_process_ip=10.0.0.9" in accelerate_options(runtime(nodes=2), named)


@pytest.mark.parametrize(
    ("asked", "variables", "told"),
    [
        ({"file": None}, {}, "Set it, e.g. to config/accelerate/ddp.yaml"),
        ({"file": "none.yaml"}, {}, "is not an accelerate config file"),
        ({"file": "single.yaml"}, {}, "starts one process where 2 are asked for"),
        ({"nodes": 2}, {}, "srun --nodes=2 --ntasks=2 --ntasks-per-node=1"),
        ({"nodes": 3}, SLURM, "this step of Slurm has 2 tasks"),
    ],
)
def test_what_would_start_too_little_is_refused(asked, variables, told):
    with pytest.raises(ConfigError, match=told):
        accelerate_options(runtime(**asked), variables)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """`results` with everything that reference needs, and with a second copy that has its result."""
    folder = tmp_path_factory.mktemp("world")
    config = small_config(micro_batch_size=2)
    layout = make_world(folder / "results" / "smoke", config)
    prefer.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    shutil.copytree(folder / "results", folder / "alone")
    score_reference(config, Layout(folder / "alone" / "smoke"), CHECKPOINT)
    return folder


@pytest.fixture
def command_line(world, tmp_path):
    shutil.copytree(world / "results", tmp_path / "results")

    def make(nodes: int, processes: int, file: str) -> CommandLine:
        asked = {"train_nodes": nodes, "train_processes": processes, "accelerate": str(ACCELERATE / file)}
        return CommandLine(tmp_path, runtime=asked, training={"micro_batch_size": 2})

    return make


REFERENCE = "smoke/seed0/base/reference/all-6.parquet"


def test_one_launcher_per_node_as_srun_starts_them(command_line, world):
    line = command_line(2, 1, "multi_node.yaml")
    here = {**SLURM, **step_server(), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    nodes = [line.start("launch", "reference", **{**here, "SLURM_NODEID": str(node)}) for node in (1, 0)]
    for node in nodes:
        error = node.communicate(timeout=300)[1]
        assert node.returncode == 0, error[-3000:]
    assert (line.folder / "results" / REFERENCE).read_bytes() == (world / "alone" / REFERENCE).read_bytes()


def test_single_process_of_accelerate(command_line, world):
    line = command_line(1, 1, "single.yaml")
    told = line.run("launch", "reference", **step_server())
    assert "reference base, seed 0: 6/6 steps" in told
    assert (line.folder / "results" / REFERENCE).read_bytes() == (world / "alone" / REFERENCE).read_bytes()


def test_one_failing_process_ends_all_with_its_error_in_sight(command_line):
    line = command_line(1, 2, "ddp.yaml")
    (line.folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if os.environ.get('RANK') == '1':\n"
        "    print('out of memory', file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n"
    )
    job = line.start("launch", "reference")
    told = job.communicate(timeout=300)[1]
    assert job.returncode == 1
    assert "out of memory" in told
    assert "hermesflow launch: reference: process 1 ended with status 3, so all were ended." in told
    assert not (line.folder / "results" / REFERENCE).exists()


def test_a_users_error_is_told_without_traceback(command_line):
    line = command_line(1, 2, "ddp.yaml")
    (line.folder / "results" / "smoke" / "data" / "pairs.parquet").unlink()
    job = line.start("launch", "reference", **step_server())
    told = job.communicate(timeout=300)[1]
    assert job.returncode == 1
    assert "Run stage data again" in told
    assert "Traceback" not in told
