"""Copies of a finished report that are committed: docs/results/{config}."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hermesflow.artifacts import Layout, digest_of, git_revision, read_json, sha256, write_json
from hermesflow.config import Config, as_plain
from hermesflow.errors import ArtifactError

FOLDERS = ("tables", "figures")
FILES = ("answer.md", "summary.json")


def publish(config: Config, layout: Layout, target: Path, *, seeds: Sequence[int]) -> None:
    """Replace `target` by the report's tables, figures and answer, with a manifest that says what they are.

    Args:
        config: the experiment.
        layout: where its artifacts are.
        target: folder for the copies.
        seeds: run seeds the report was made from.

    Raises:
        ArtifactError: there is no finished report.
    """
    for name in (*FOLDERS, *FILES):
        if not (layout.report / name).exists():
            raise ArtifactError(f"{layout.report / name}: is missing, so there is no report to publish. Run snakemake.")
    target.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        shutil.rmtree(target / name, ignore_errors=True)
        # not hard links to DVC's cache: plain writable files for git
        shutil.copytree(layout.report / name, target / name, copy_function=shutil.copyfile)
    for name in FILES:
        shutil.copyfile(layout.report / name, target / name)
    copied = [*FILES, *(p.relative_to(target).as_posix() for f in FOLDERS for p in sorted((target / f).iterdir()))]
    write_json(
        target / "manifest.json",
        {
            "config": as_plain(config),
            "config_digest": digest_of(as_plain(config)),
            "data": read_json(layout.root / "data" / "manifest.json"),
            "git_revision": git_revision(),
            "seeds": list(seeds),
            "files": {name: sha256(target / name) for name in sorted(copied)},
        },
    )
