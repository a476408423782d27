"""Results of equal content, which DVC links to one inode."""

import subprocess
import sys

from .conftest import REPOSITORY

SCRIPT = REPOSITORY / "workflow" / "scripts" / "restore.py"


def test_results_that_dvc_does_not_have_are_refused():
    command = [sys.executable, SCRIPT, "config/smoke.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("dvc.yaml: is of other results than those of config/smoke.yaml")


def test_every_result_gets_an_inode_of_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    (folder / "deep").mkdir(parents=True)
    cached = tmp_path / "cached"
    cached.write_text("same")
    cached.chmod(0o444)
    linked = [folder / "a.csv", folder / "deep" / "b.csv", folder / "deep" / "c.csv"]
    for path in linked:
        path.hardlink_to(cached)
    other = folder / "other.csv"
    other.symlink_to(cached)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from restore import unshare

    unshare(folder)
    assert len({path.stat().st_ino for path in linked}) == 3
    assert {path.read_text() for path in linked} == {"same"}
    assert {path.stat().st_mode for path in linked} == {cached.stat().st_mode}
    assert other.is_symlink()
    assert sorted(path.name for path in folder.rglob("*")) == ["a.csv", "b.csv", "c.csv", "deep", "other.csv"]
