"""How often Snakemake reads the inputs of its jobs to compare them by content: bytes, as the kernel counts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.files import SNAKEMAKE
from hermesflow.core.files import save_manifest

RULES = Path(__file__).parents[2] / "workflow" / "rules"
SIZE = 200 * 2**20
RULE = f"""
import os
from pathlib import Path

from hermesflow.core.files import content_digest, sha256

ROOT = Path("results/x")


include: "{RULES}/hashing.smk"


rule all:
    input: "a.npy", expand("out/{{k}}", k=range(10))


rule other:
    input: "data/list.bin"
    output: "a.npy"
    shell: "touch {{output}}"


rule ten:
    input: "results/x/model.safetensors"
    output: expand("out/{{k}}", k=range(10))
    shell: "touch {{output}}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A rule with ten outputs of a large result, another of a large file of the user's, both done."""
    folder = tmp_path_factory.mktemp("hashing")
    (folder / "Snakefile").write_text(RULE)
    for name in ("results/x/model.safetensors", "data/list.bin"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
        os.truncate(folder / name, SIZE)
    save_manifest(folder / "results" / "x", {})
    return folder


def asked(folder, *options):
    """Bytes read by a Snakemake, without those of one that has nothing to look at, and what it said."""
    env = {**os.environ, "PYTHONPATH": str(RULES.parents[1] / "src")}
    command = ["--cores", "1", "--max-checksum-file-size", "100GB", "--rerun-triggers", "mtime", *options]
    done = subprocess.run(
        [sys.executable, "-c", SNAKEMAKE, "io.txt", *command],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    counts = dict(line.split(": ") for line in (folder / "io.txt").read_text().splitlines())
    return int(counts["rchar"]), done.stdout


def test_a_large_result_is_never_read_and_another_file_once(folder):
    idle, _ = asked(folder, "--list-rules")
    read, _ = asked(folder)
    assert SIZE <= read - idle < 1.2 * SIZE  # the user's file, once
    for name in ("results/x/model.safetensors", "data/list.bin"):
        os.utime(folder / name)
    read, told = asked(folder, "--dry-run")
    assert "Nothing to be done" in told
    assert SIZE <= read - idle < 1.2 * SIZE
    os.truncate(folder / "results/x/model.safetensors", SIZE + 1)
    _, told = asked(folder, "--dry-run")
    assert "rule ten:" in told and "rule other:" not in told
