"""What happened, kept in MLflow: one parent run per seed, one child per checkpoint.

Runs are found by tags, so any process may add to them; `python -m hermesflow track` makes database, experiment and
runs before the first job (several processes creating an sqlite database at once break it). Tracking never stops the
work: what MLflow does not take is kept in a spool (spool.py) and sent later, by the same process or by
`python -m hermesflow sync`.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.config.experiment import BASE, Config, as_plain
from hermesflow.core.errors import HermesflowError
from hermesflow.core.files import Layout, digest_of, git_revision
from hermesflow.tracking import spool
from hermesflow.tracking.delivery import Mlflow, address, describe
from hermesflow.tracking.spool import Outbox, Record, RunName

_SEED, _CHECKPOINT, _MADE_FROM = "hermesflow.seed", "hermesflow.checkpoint", "hermesflow.made_from"
_SEED_RUN = "all"  # value of the checkpoint tag of a parent run


class Run:
    """One MLflow run that accepts metrics and artifacts, whether the server answers or not."""

    def __init__(self, mlflow: Mlflow, outbox: Outbox, name: RunName) -> None:
        """Take the server, the outbox to it, and what the run is found by."""
        self._mlflow, self._outbox, self._name = mlflow, outbox, name

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None while the server is away."""
        return self._mlflow.known(self._name)

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add scalar metrics, all at one step."""
        now = _now()
        self._put("metrics", lambda: {"points": [[k, float(v), now, step or 0] for k, v in metrics.items()]})

    def log_artifacts(self, path: Path, under: str | None = None) -> None:
        """Keep a file, or all files of a folder, in artifact folder `under`."""
        self._put("files", lambda: {"path": str(path), "under": under})

    def log_inputs(self, name: str, table: pd.DataFrame, *, source: Path, context: str) -> None:
        """Note a dataset the run has read: name, schema, size and digest, not the records."""
        self._put("input", lambda: {"dataset": describe(name, table, source=source), "name": name, "context": context})

    def log_samples(self, name: str, table: pd.DataFrame, *, rows: int = 50) -> None:
        """Keep the first rows of a table as `name` (.json), which MLflow shows as a table."""
        text = table.head(rows).to_json
        self._put("table", lambda: {"name": name, "text": text(orient="split", index=False, date_format="iso")})

    def finish(self, status: str = "FINISHED") -> None:
        """Set the status; a later step may still add to the run."""
        self._put("status", lambda: {"status": status})

    def _put(self, kind: str, content: Callable[[], dict[str, Any]]) -> None:
        try:
            self._outbox.put(Record(self._mlflow.address, self._name, kind, _now(), content()))
        except Exception as error:  # not MLflow's (those are spooled): what was to be recorded cannot be
            _warn(kind, f"{type(error).__name__}: {error}")


def open_run(config: Config, layout: Layout, seed: int, checkpoint: str | None) -> Run:
    """The run of one checkpoint of one seed, or with None the seed's own; made if it is not there."""
    run = Run(*_server(_home(layout), address()), _run_name(config, seed, checkpoint))
    run.finish("RUNNING")
    atexit.register(lambda: run.finish("FAILED" if hasattr(sys, "last_type") else "FINISHED"))
    return run


def create_runs(config: Config, layout: Layout, seeds: Sequence[int]) -> None:
    """Make the database, the experiment, and a run for every seed and checkpoint."""
    server = _server(_home(layout), address())
    for seed in seeds:
        for checkpoint in (None, BASE, *config.checkpoints):
            Run(*server, _run_name(config, seed, checkpoint))._put("run", dict)


def sync(results: Path) -> Iterator[str]:
    """Send all that MLflow could not take, oldest first; say what became of each process's records.

    It goes to MLFLOW_TRACKING_URI, or where that is not set to the server it was meant for.

    Raises:
        HermesflowError: a server is still away, or refuses records. They stay where they are.
    """
    home, away, refused = results.resolve(), {}, []
    for folder in spool.waiting(home):
        with spool.taken(folder) as aside:
            if aside is None:
                yield f"{folder.name}: left alone, its process lives or another sync sends it"
                continue
            records, cut = spool.read(aside)
            mlflow = Mlflow(home, address() or next((record.server for record in records), None))
            if mlflow.title in away:
                continue
            try:
                if records:
                    mlflow.ping()
                outcome = spool.send(aside, records, mlflow)
            except Exception as error:  # whatever MLflow, SQL or the network raise
                away[mlflow.title] = mlflow.explain(error)
                continue
            names = ", ".join(dict.fromkeys(f"`{record.run.name}`" for record in records)) or "no run"
            broken = f"; {cut} cut short by a kill skipped" if cut else ""
            yield f"{folder.name}: sent {outcome.sent} records of {names} to {mlflow.title}{broken}"
            refused += [f"{record} in {aside}: {mlflow.explain(error)}" for record, error in outcome.refused]
    _complain(home, away, refused)


def tracking_uri(layout: Layout) -> str:
    """Where MLflow keeps its records: MLFLOW_TRACKING_URI, else an sqlite file beside the results."""
    return Mlflow(_home(layout), address()).uri


def made_from(config: Config, checkpoint: str) -> str:
    """Digest of all config keys behind a checkpoint's weights: other branches of the tree do not count."""
    plain = as_plain(config)
    lineage, name = [], checkpoint
    while name != BASE:
        lineage.append(plain["checkpoints"][name])
        name = config.checkpoints[name].parent
    keys = set(plain) - {"name", "seeds", "checkpoints", "evaluation", "runtime"}
    return digest_of({"lineage": lineage, **{key: plain[key] for key in sorted(keys)}})


def _complain(home: Path, away: Mapping[str, str], refused: Sequence[str]) -> None:
    texts = [
        f"{server} does not answer ({reason}). Nothing is lost: {home / spool.FOLDER} keeps what it has not got. Start "
        "the server (docs/mlflow.md), or set MLFLOW_TRACKING_URI to where it is now, and run this again."
        for server, reason in away.items()
    ]
    if refused:
        texts.append(
            f"{len(refused)} records were refused by a server that answers. They are kept and tried again by the next "
            "sync; delete their folder if they can never be sent:\n" + "\n".join(refused)
        )
    if texts:
        raise HermesflowError("\n".join(texts))


def _home(layout: Layout) -> Path:
    return layout.root.parent.resolve()


@cache
def _server(home: Path, address: str | None) -> tuple[Mlflow, Outbox]:
    """One outbox per server and process: all its runs know when the server is away."""
    mlflow = Mlflow(home, address)
    return mlflow, Outbox(home, mlflow)


def _run_name(config: Config, seed: int, checkpoint: str | None) -> RunName:
    revision = {"mlflow.source.git.commit": git_revision()}
    made_with = {"hermesflow.config": digest_of(as_plain(config)), **revision}
    tags = {_SEED: str(seed), _CHECKPOINT: _SEED_RUN}
    parent = RunName(config.name, f"seed {seed}", tags, made_with)
    if checkpoint is None:
        return parent
    tags = {_SEED: str(seed), _CHECKPOINT: checkpoint, _MADE_FROM: made_from(config, checkpoint), **revision}
    return RunName(config.name, f"{checkpoint}, seed {seed}", tags, made_with, parent)


def _now() -> int:
    return time.time_ns() // 1_000_000


@cache
def _warn(kind: str, reason: str) -> None:
    print(f"tracking: some {kind} cannot be recorded, the work goes on: {reason}", file=sys.stderr, flush=True)
