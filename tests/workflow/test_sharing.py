"""The commands of docs/dvc.md, on the `data` stage: results reach other clones without being computed again."""

import os
import re
import stat
import subprocess

import pytest

from .conftest import REPOSITORY, Clone, make_clone

GROUP = 65534 if os.geteuid() == 0 else os.getgroups()[-1]
TABLE = "results/tiny/data/pairs.parquet"


def commands(heading):
    """The blocks of commands below a heading of docs/dvc.md."""
    (section,) = re.findall(rf"\n## {heading}\n(.*?)(?=\n## |\Z)", (REPOSITORY / "docs" / "dvc.md").read_text(), re.S)
    return re.findall(r"```bash\n(.*?)```", section, re.S)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Stands for /shared/hermesflow."""
    return tmp_path_factory.mktemp("shared")


def follow(clone, block, shared):
    """Run a block as it stands, in this place and for this group; `dvc` moves the results of two stages alone."""
    block = block.replace("/shared/hermesflow", str(shared)).replace("chgrp lab", f"chgrp {GROUP}")
    block = re.sub(r"(?m)^(dvc (?:push|pull|repro).*)$", r"\1 digests data", block)
    return clone.run("bash", "-euc", block)


@pytest.fixture(scope="module")
def first(tmp_path_factory, shared):
    """The clone that computed the results and committed dvc.lock; it chose a profile through SNAKEMAKE_PROFILE."""
    clone = make_clone(tmp_path_factory.mktemp("sharing") / "first")
    once, every = commands("One cache for a group")
    follow(clone, once, shared)
    follow(clone, every, shared)
    clone.run("python", "-m", "hermesflow", "dvc", "--config", "config/tiny.yaml")
    profile = clone.root / "workflow" / "profiles" / "slurm"
    profile.mkdir(exist_ok=True)
    (profile / "config.yaml").write_text("cores: 1\nmax-checksum-file-size: 100GB\n")
    said = clone.run("env", "SNAKEMAKE_PROFILE=workflow/profiles/slurm", "dvc", "repro", "data")
    clone.run("git", "add", "-A")
    clone.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "results")
    return clone, said


def clone_of(first, name):
    """Another user's clone of the same commit."""
    root = first.root.parent / name
    subprocess.run(["git", "clone", "--quiet", str(first.root), str(root)], check=True)
    return Clone(root)


def test_dvc_repro_uses_the_profile_that_was_chosen(first):
    _, said = first
    assert "Running stage 'data'" in said
    assert "profiles workflow/profiles/slurm and workflow specific profile workflow/profiles/slurm" in said
    assert "profiles/default" not in said


def test_the_cache_is_the_groups_and_its_files_are_read_only(first, shared):
    for path in [shared / "cache", *(shared / "cache").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert (mode, path.stat().st_gid) == (0o2775, GROUP), path
        elif "files" in path.relative_to(shared).parts:
            assert mode == 0o444, path


def test_a_clone_on_the_shared_cache_gets_the_results_and_runs_nothing(first, shared):
    clone = clone_of(first[0], "second")
    follow(clone, commands("One cache for a group")[1], shared)
    clone.run("dvc", "config", "--local", "cache.type", "symlink")  # as another user's files come
    clone.run("dvc", "checkout", "data")
    assert (clone.root / TABLE).resolve().is_relative_to(shared / "cache")
    assert (clone.root / TABLE).read_bytes() == (first[0].root / TABLE).read_bytes()
    assert "Running stage" not in clone.run("dvc", "repro", "data")
    assert "Nothing to be done" in clone.snakemake("--dry-run", "--", TABLE)


def test_without_dvc_lock_the_shared_cache_still_saves_the_work(first, shared):
    clone = clone_of(first[0], "third")
    (clone.root / "dvc.lock").unlink()
    follow(clone, commands("One cache for a group")[1], shared)
    assert "is cached - skipping run" in clone.run("dvc", "repro", "data")
    assert (clone.root / TABLE).samefile(first[0].root / TABLE)


def test_results_go_through_a_remote_to_a_fresh_clone(first, shared):
    push, pull, *_ = commands("Remotes")
    follow(first[0], push, shared)
    clone = clone_of(first[0], "fourth")
    follow(clone, push.splitlines()[0] + "\n" + pull, shared)
    assert (clone.root / TABLE).read_bytes() == (first[0].root / TABLE).read_bytes()
    assert not (clone.root / TABLE).samefile(first[0].root / TABLE)
    assert "Running stage" not in clone.run("dvc", "repro", "data")
