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
from hermesflow.core.files import write_json, write_table
from hermesflow.evaluation.evaluated import UNITS
from hermesflow.evaluation.lmms.results import FLICKR_TASKS, Run, Sample, read_run, run_units
from hermesflow.evaluation.lmms.running import SUBMISSION_TASK

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
    write_table(folder / UNITS, units)
    write_table(folder / "rows.parquet", rows)
    write_json(folder / "values.json", {})
    facts = {
        "protocol": f"lmms-eval's tasks {', '.join(sorted(run.samples.keys() - {SUBMISSION_TASK}))}",
        "scorers": {"lmms-eval": importlib.metadata.version("lmms-eval")},
        "items": int(units["id"].nunique()),
        "questions": rows.groupby("task").size().to_dict(),
    }
    write_json(folder / "facts.json", facts)


def run_rows(run: Run) -> pd.DataFrame:
    """One row per question: ROW_COLUMNS; `target` is what the task holds for right, empty where samples do not say."""
    rows = [
        (task, sample["doc_id"], run.image(task, sample), _target(task, sample), _text(sample["filtered_resps"]))
        for task, samples in sorted(run.samples.items())
        for sample in samples
    ]
    return pd.DataFrame(rows, columns=list(ROW_COLUMNS))


def _target(task: str, sample: Sample) -> str:
    """The `target` of a sample but for the tasks whose doc_to_target names no field: there it is the word `answer`."""
    if task in FLICKR_TASKS:
        return _text(sample["flickr_CIDEr"]["answer"])
    return "" if task.startswith("vqav2") else _text(sample["target"])


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
