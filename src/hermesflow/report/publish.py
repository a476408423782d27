"""Copies of a finished report that are committed: docs/results/{config}."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from hermesflow.config.experiment import Config, as_plain
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, atomic, digest_of, git_revision, read_json, sha256, write_json

FOLDERS = ("tables", "figures")
FILES = ("answer.md", "summary.json")
README_TABLES = ("table4_gap", "table5_ablation")


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


def fill_readme(readme: Path, published: Path) -> None:
    """Put the answer, the gap figure and the main tables of a published folder into the README's `results` section.

    Raises:
        ArtifactError: the README has no such section.
    """
    here = published.resolve().relative_to(readme.resolve().parent).as_posix()
    parts = [f"![Understanding, generation and the gap]({here}/figures/fig2b_gap.png)"]
    parts += [(published / "answer.md").read_text().strip()]
    parts += [(published / "tables" / f"{name}.md").read_text().strip() for name in README_TABLES]
    parts += [f"All tables and figures with their manifest: [{here}]({here})."]
    fill(readme, "results", "\n\n".join(parts))


def fill_dag(readme: Path, mermaid: str) -> None:
    """Put Snakemake's rule graph into the README's `dag` section, without its colours and in one fixed order.

    Args:
        readme: the README.
        mermaid: output of `snakemake --rulegraph mermaid-js`, whose numbers and order change from run to run.
    """
    rule_of = dict(re.findall(r"(id\d+)\[(\w+)\]", mermaid))
    arrows = re.findall(r"(id\d+) --> (id\d+)", mermaid)
    edges = sorted(f"    {rule_of[source]} --> {rule_of[target]}" for source, target in arrows)
    fill(readme, "dag", "\n".join(["```mermaid", "flowchart TB", *edges, "```"]))


def fill(readme: Path, section: str, text: str) -> None:
    """Replace what stands between `<!-- SECTION:begin -->` and `<!-- SECTION:end -->`.

    Raises:
        ArtifactError: the markers are not there.
    """
    begin, end = f"<!-- {section}:begin -->\n", f"<!-- {section}:end -->"
    before, found, rest = readme.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ArtifactError(f"{readme}: has no section between {begin.strip()} and {end}. Put both lines back.")
    with atomic(readme) as temporary:
        temporary.write_text(f"{before}{begin}{text}\n{end}{after}")
