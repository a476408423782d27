"""What lmms-eval left of one checkpoint as a benchmark's files; runs in lmms-eval's environment.

python -m hermesflow.evaluation.lmms.summary RUN FOLDER
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path

import pandas as pd

from hermesflow.core.errors import HermesflowError
from hermesflow.core.files import read_json, write_json, write_table
from hermesflow.evaluation.benchmark import task_target
from hermesflow.evaluation.evaluated import UNITS
from hermesflow.evaluation.lmms import COUNTS
from hermesflow.evaluation.lmms.results import run_units
from hermesflow.evaluation.lmms.run import Run, read_run
from hermesflow.evaluation.registry import benchmark_of

ROW_COLUMNS = ("task", "doc_id", "image", "target", "answer")


def main(argv: list[str] | None = None) -> int:
    """Write units, rows, values and facts; a user's error is one paragraph on stderr."""
    parser = argparse.ArgumentParser(prog="hermesflow.evaluation.lmms.summary", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of lmms-eval's files")
    parser.add_argument("folder", type=Path, help="folder of the benchmark")
    arguments = parser.parse_args(argv)
    try:
        summarise(read_run(arguments.run), arguments.folder)
    except HermesflowError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


def summarise(run: Run, folder: Path) -> None:
    """Write `units.parquet`, `rows.parquet`, `values.json` and `facts.json`.

    Raises:
        ArtifactError: a sample has another form, or the rows do not add up to lmms-eval's own figure.
    """
    units, rows = run_units(run), run_rows(run)
    graded = [task for task in run.samples if (one := benchmark_of(task)) is None or one.tasks[task].figures]
    write_table(folder / UNITS, units)
    write_table(folder / "rows.parquet", rows)
    write_json(folder / "values.json", {})
    facts = {
        "protocol": f"lmms-eval's tasks {', '.join(sorted(graded))}",
        "scorers": {"lmms-eval": importlib.metadata.version("lmms-eval")},
        "items": int(units["id"].nunique()),
        "questions": rows.groupby("task").size().to_dict(),
    }
    counts = read_json(run.folder / COUNTS) if (run.folder / COUNTS).is_file() else {}
    for what, by_task in counts.items():
        if counted := {task: count for task, count in by_task.items() if task in run.samples}:
            facts[what] = counted
    write_json(folder / "facts.json", facts)


def run_rows(run: Run) -> pd.DataFrame:
    """One row per question: ROW_COLUMNS; `target` is what the task holds for right, empty where samples do not say."""
    rows = []
    for task, samples in sorted(run.samples.items()):
        one = benchmark_of(task)
        target = one.target if one else task_target
        for sample in samples:
            answer = _text(sample["filtered_resps"])
            rows.append((task, sample["doc_id"], run.image(task, sample), _text(target(sample)), answer))
    return pd.DataFrame(rows, columns=list(ROW_COLUMNS))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
