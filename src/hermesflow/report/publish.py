"""Copies of a finished report that are committed, docs/results/{config}, and the generated sections of pages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from tabulate import tabulate

from hermesflow.config.experiment import BASE, Config, as_plain
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, atomic, digest_of, git_revision, read_json, read_table, sha256, write_json
from hermesflow.core.progress import DURATION_COLUMNS
from hermesflow.report.answer import PROTOCOL_WORDS, VERDICTS
from hermesflow.report.formatting import QUOTED_HEADING, write_text
from hermesflow.report.roles import pair_chain, pair_chains

FOLDERS = ("tables", "figures")
FILES = ("answer.md", "summary.json")
DURATIONS = "durations.json"
README_ROWS = 5
PICTURE = {
    "data": ("images, captions, questions", ("data",)),
    "base": ("image tokenizer, base model", ("tokenizer", "encode", "base")),
    "sample": ("n captions, n images", ("sample", "gather_candidates")),
    "score": ("text similarity, self-VQA", ("score", "gather_scores")),
    "prefer": ("chosen and rejected", ("prefer",)),
    "train": ("Pair-DPO", ("reference", "train")),
    "evaluate": (
        "gap, benchmarks",
        ("clip", "judge", "agreement", "evaluate", "draw", "gather_drawn", "grade", "understand"),
    ),
    "report": ("tables, figures, answer", ("report", "all")),
}
"""Nodes of the README's DAG in the order of a run: what each makes, and the rules it stands for."""


def publish(config: Config, layout: Layout, target: Path, *, seeds: Sequence[int]) -> None:
    """Replace `target` by the report's tables, figures and answer, with a manifest that says what they are.

    Mean seconds of a job of each rule come along, where the results were made here: for the time left of a later run.

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
    durations = layout.root / "logs" / "durations.csv"
    if durations.exists():  # else what was published stays, as that of steps that did not run here
        table = read_table(durations, DURATION_COLUMNS, numbers=("seconds",)).drop_duplicates("output", keep="last")
        former = read_json(target / DURATIONS) if (target / DURATIONS).exists() else {}
        write_json(target / DURATIONS, former | table.groupby("rule")["seconds"].mean().round(1).to_dict())
    copied = [*FILES, *((DURATIONS,) if (target / DURATIONS).exists() else ())]
    copied += (p.relative_to(target).as_posix() for f in FOLDERS for p in sorted((target / f).iterdir()))
    write_json(
        target / "manifest.json",
        {
            "config": as_plain(config),
            "config_digest": digest_of(as_plain(config)),
            "data": read_json(layout.root / "data" / "manifest.json"),
            "git_revision": git_revision(),
            "seeds": sorted(seeds),
            "files": {name: sha256(target / name) for name in sorted(copied)},
        },
    )


def fill_readme(readme: Path, published: Path, config: Config) -> None:
    """Put two figures, the verdicts and a short Table 4 into the README's `results` section.

    The figures are pictures before and after, where the report has them, and the gap.

    The table has base, the Pair-DPO iterations and the last checkpoint of every other chain, five rows at most, by one
    protocol: the same judge on both sides where there is a judge.

    Args:
        readme: the README.
        published: folder that `publish` wrote.
        config: the experiment.

    Raises:
        ArtifactError: the README has no such section.
    """
    folder = published.resolve().relative_to(readme.resolve().parent).as_posix()
    printed = (published / "tables" / "table4_gap.md").read_text().partition(QUOTED_HEADING)[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in printed if line.endswith("|")]
    lines = [dict(zip(header, row, strict=True)) for row in rows]
    protocols = [line["Protocol"] for line in lines]
    protocol = "same-judge" if "same-judge" in protocols else protocols[0]
    chain = pair_chain(config)
    names = [BASE, *chain, *(other[-1] for other in pair_chains(config) if other != chain)][:README_ROWS]
    selection = [line for name in names for line in lines if (line["Model"], line["Protocol"]) == (name, protocol)]
    known = ("Model", "Understanding", "Generation", "Gap", "Both right", "Change of gap", "Change of generation")
    columns = [column for column in known if column in header]
    cells = [[line[c] if c.startswith("Change") else line[c].partition(" [")[0] for c in columns] for line in selection]
    summary = read_json(published / "summary.json")
    claims = [claim for claim in summary["claims"] if claim["protocol"] == protocol]
    verdicts = "; ".join(f"*{claim['claim']}*, {VERDICTS[claim['verdict']].lower().rstrip('.')}" for claim in claims)
    seeds = f"{summary['seeds']} run seed{'s' if summary['seeds'] != 1 else ''}"
    words = (
        f"Figures from {seeds}, {PROTOCOL_WORDS[protocol]}. Brackets are {100 * summary['confidence']:.0f} % paired "
        f"bootstrap intervals of the change against `base`. Claims of the paper: {verdicts}."
    )
    texts = {
        "before_after": f"Pictures of `{BASE}` and of `{summary['checkpoint']}`, for the first prompt of each kind",
        "fig2b_gap": "Understanding, generation and the gap",
    }
    pictures = [
        f"![{text}]({folder}/figures/{name}.png)"
        for name, text in texts.items()
        if (published / "figures" / f"{name}.png").exists()
    ]
    fill(readme, "results", "\n\n".join([*pictures, tabulate(cells, columns, "pipe", disable_numparse=True), words]))


def write_page(published: Path) -> None:
    """Write `README.md` of a published folder: the answer, the paper's tables and all figures.

    Args:
        published: folder that `publish` wrote.
    """
    parts = [f"# Results of the config `{published.name}`", "How far they can be trusted: [results](../README.md)."]
    parts += [re.sub(r"^#", "##", (published / "answer.md").read_text().strip(), flags=re.MULTILINE)]
    parts += [
        "## Tables",
        *(path.read_text().strip() for path in sorted((published / "tables").glob("table[0-9]*.md"))),
    ]
    parts += ["## Figures"]
    parts += [f"![{path.stem}](figures/{path.name})" for path in sorted((published / "figures").iterdir())]
    if (published / DURATIONS).exists():
        rows = sorted(read_json(published / DURATIONS).items(), key=lambda row: -row[1])
        parts += ["## Time by step", tabulate(rows, ["step", "seconds of a job"], "pipe", floatfmt=".1f")]
    parts += ["All tables, those about trust too: [tables](tables). What they are of: [manifest.json](manifest.json)."]
    write_text(published / "README.md", "\n\n".join(parts) + "\n")


def fill_dag(readme: Path, page: Path, mermaid: str) -> None:
    """Put Snakemake's rule graph into the `dag` sections: grouped into the README, whole into a page of docs.

    Args:
        readme: the README, which gets `PICTURE`.
        page: gets every rule, in one fixed order and without colours.
        mermaid: output of `snakemake --rulegraph mermaid-js`, whose numbers and order change from run to run.

    Raises:
        ArtifactError: a file has no such section, or a rule belongs to no node of `PICTURE`.
    """
    rule_of = dict(re.findall(r"(id\d+)\[(\w+)\]", mermaid))
    arrows = {(rule_of[a], rule_of[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", mermaid)}
    _fill_graph(page, "TB", [f"{a} --> {b}" for a, b in sorted(arrows)])
    node_of = {rule: node for node, (_, rules) in PICTURE.items() for rule in rules}
    if ungrouped := sorted({rule for arrow in arrows for rule in arrow} - node_of.keys()):
        raise ArtifactError(f"rules {ungrouped} belong to no node of report.publish.PICTURE. Add them there.")
    nodes = [f'{node}["<b>{node}</b><br>{text}"]' for node, (text, _) in PICTURE.items()]
    _fill_graph(readme, "LR", [*nodes, *_reduced({(node_of[a], node_of[b]) for a, b in arrows})])


def _fill_graph(page: Path, direction: str, lines: Sequence[str]) -> None:
    fill(page, "dag", "\n".join(["```mermaid", f"flowchart {direction}", *(f"    {line}" for line in lines), "```"]))


def _reduced(arrows: Collection[tuple[str, str]]) -> list[str]:
    """Returns the arrows between nodes of `PICTURE` that no longer path implies, and those that start an iteration."""
    order = list(PICTURE)
    forward = sorted({(order.index(a), order.index(b)) for a, b in arrows if order.index(a) < order.index(b)})

    def connected(a: int, b: int) -> bool:
        return a == b or any(connected(end, b) for start, end in forward if start == a)

    lines = [
        f"{order[a]} --> {order[b]}"
        for a, b in forward
        if not any(connected(end, b) for start, end in forward if start == a and end != b)
    ]
    for node in order:
        earlier = [other for other in order[: order.index(node)] if (node, other) in arrows]
        lines += [f"{node} -- next iteration --> {other}" for other in earlier[:1]]
    return lines


def fill(page: Path, section: str, text: str) -> None:
    """Replace what stands between `<!-- SECTION:begin -->` and `<!-- SECTION:end -->`.

    Raises:
        ArtifactError: the markers are not there.
    """
    begin, end = f"<!-- {section}:begin -->\n", f"<!-- {section}:end -->"
    before, opening, tail = (page.read_text() if page.exists() else "").partition(begin)
    _, closing, after = tail.partition(end)
    if not (opening and closing):
        raise ArtifactError(f"{page}: has no section between {begin.strip()} and {end}. Put both lines back.")
    with atomic(page) as temporary:
        temporary.write_text(f"{before}{begin}{text}\n{end}{after}")
