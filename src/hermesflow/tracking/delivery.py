"""How records reach MLflow: runs found by tags or made, one call for each kind of record. The only importer of mlflow.

Every call may be made twice without harm: what was sent but not confirmed is sent again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.core.files import digest_of
from hermesflow.tracking.spool import Record, RunName

_BATCH = 1000  # metrics in one call: MLflow's limit
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is away is noticed at once (MLflow's own 7 tries take minutes); the spool is what tries again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class Mlflow:
    """MLflow at one address, and the ids of the runs met there."""

    def __init__(self, home: Path, address: str | None) -> None:
        """Take the results folder and the address; None is an sqlite file in that folder."""
        self.address = address and _without_password(address)
        self.uri = address or f"sqlite:///{home / 'mlflow.db'}"
        self._home = home
        self._client: Any = None
        self._ids: dict[str, str] = {}

    @property
    def title(self) -> str:
        """What to call it in messages."""
        return f"MLflow ({_without_password(self.uri)})"

    def known(self, run: RunName) -> str | None:
        """Id of a run met before."""
        return self._ids.get(_key(run))

    def ping(self) -> None:
        """Ask for something small; any exception says that the server is away."""
        with _quiet():
            self.client().search_experiments(max_results=1)

    def deliver(self, record: Record) -> None:
        """Send one record, which makes its run if it is not there."""
        try:
            with _quiet():
                run_id = self._run_id(record.run, record.time)
                _SENDERS[record.kind](self.client(), run_id, record)
        except Exception:
            self._ids.clear()  # the server may have another database by now
            raise

    def explain(self, error: Exception) -> str:
        """What went wrong, on one line, and the mend where it is known."""
        text = _without_password(" ".join(f"{error}".split()))
        if "Invalid Host" in text:
            host = _without_password(self.uri).rpartition("//")[2].partition("/")[0]
            return f"403, it does not answer to that name: start it with --allowed-hosts '{host}'"
        if "Caused by " in text:  # the end of what urllib3 says is what a reader needs
            text = text.rpartition("Caused by ")[2].removesuffix(")")
        return f"{type(error).__name__}: {text[:300]}"

    def client(self) -> Any:
        """MLflow's client; making it makes a database that is not there."""
        if self._client is None:
            from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # we say ourselves what went wrong
            with _creating(self._home):
                self._client = MlflowClient(self.uri)
        return self._client

    def _run_id(self, run: RunName, started: int) -> str:
        key = _key(run)
        if key not in self._ids:
            parent = {"mlflow.parentRunId": self._run_id(run.parent, started)} if run.parent else {}
            found = self._find(run)  # without the lock: a server that hangs must not make others wait for it
            if found is None:
                with _creating(self._home):
                    found = self._find(run) or self._create(run, parent, started)
            self._ids[key] = found
        return self._ids[key]

    def _find(self, run: RunName) -> str | None:
        experiment = self.client().get_experiment_by_name(run.experiment)
        if experiment is None:
            return None
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in sorted(run.tags.items()))
        found = self.client().search_runs([experiment.experiment_id], filter_string=wanted, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, run: RunName, parent: dict[str, str], started: int) -> str:
        client = self.client()
        experiment = client.get_experiment_by_name(run.experiment)
        if experiment is None:  # a server has its own place for artifacts; a database of ours needs one
            place = None if self.address else (self._home / "mlartifacts" / run.experiment).as_uri()
            experiment_id = client.create_experiment(run.experiment, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
        tags = {**run.tags, **run.made_with, **parent}
        return str(client.create_run(experiment_id, start_time=started, tags=tags, run_name=run.name).info.run_id)


def _send_metrics(client: Any, run_id: str, record: Record) -> None:
    from mlflow.entities import Metric

    batch = [Metric(*point) for point in record.data["points"]]
    for start in range(0, len(batch), _BATCH):
        client.log_batch(run_id, metrics=batch[start : start + _BATCH])


def _send_files(client: Any, run_id: str, record: Record) -> None:
    path = Path(record.data["path"])
    send = client.log_artifacts if path.is_dir() else client.log_artifact
    send(run_id, str(path), record.data["under"])


def _send_input(client: Any, run_id: str, record: Record) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag("mlflow.data.context", record.data["context"])]
    client.log_inputs(run_id, [DatasetInput(Dataset(**record.data["dataset"]), tags)])


def _send_table(client: Any, run_id: str, record: Record) -> None:
    # Not `log_table`: it adds the rows to those of a table that is there, so sending twice would double them.
    client.log_text(run_id, record.data["text"], record.data["name"])
    shown = json.loads(client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
    if (entry := {"path": record.data["name"], "type": "table"}) not in shown:
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*shown, entry]))


def _send_status(client: Any, run_id: str, record: Record) -> None:
    if record.time < (client.get_run(run_id).info.end_time or 0):
        return  # sent late: a later step has ended since
    if record.data["status"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, record.data["status"], end_time=record.time)


_SENDERS: dict[str, Callable[[Any, str, Record], None]] = {
    "run": lambda client, run_id, record: None,  # it is there by now
    "metrics": _send_metrics,
    "files": _send_files,
    "input": _send_input,
    "table": _send_table,
    "status": _send_status,
}


def address() -> str | None:
    """MLFLOW_TRACKING_URI, or None; and what MLflow reads from the environment is set where the user has not set it."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def describe(name: str, table: pd.DataFrame, *, source: Path) -> dict[str, Any]:
    """A dataset's name, source, schema, size and digest, as MLflow has them."""
    import mlflow.data

    with _quiet():
        dataset = mlflow.data.from_pandas(table, source=str(source), name=name)  # type: ignore[attr-defined]
        return dict(dataset.to_dict())


def _key(run: RunName) -> str:
    return digest_of(asdict(run))


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about schemas, sources and pandas: not for our users
        yield


@contextmanager
def _creating(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
