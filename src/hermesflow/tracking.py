"""What happened, kept in MLflow: one parent run per seed, one child per checkpoint. The only importer of mlflow.

Runs are found by tags, so any process may add to them; `python -m hermesflow track` makes database, experiment and
runs before the first job (several processes creating an sqlite database at once break it). Tracking never stops the
work: on a failure it warns once and the step goes on without it.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.artifacts import Layout, digest_of, git_revision
from hermesflow.config import BASE, Config, as_plain

_SEED, _CHECKPOINT, _MADE_FROM = "hermesflow.seed", "hermesflow.checkpoint", "hermesflow.made_from"
_SEED_RUN = "all"  # value of the checkpoint tag of a parent run


class Run:
    """One MLflow run that accepts metrics and artifacts, or silence after the first failure."""

    def __init__(self, client: Any, run_id: str | None) -> None:
        """Wrap a run of a client; `run_id` None is a run that records nothing."""
        self._client, self.run_id = client, run_id

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add scalar metrics, all at one step."""

        def send() -> None:
            from mlflow.entities import Metric
            from mlflow.utils.time import get_current_time_millis

            now = get_current_time_millis()
            batch = [Metric(key, float(value), now, step or 0) for key, value in metrics.items()]
            for start in range(0, len(batch), 1000):  # the server's limit
                self._client.log_batch(self.run_id, metrics=batch[start : start + 1000])

        self._try(send)

    def log_artifacts(self, path: Path, under: str | None = None) -> None:
        """Keep a file, or all files of a folder, in artifact folder `under`."""
        send = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        self._try(lambda: send(self.run_id, str(path), under))

    def log_inputs(self, name: str, table: pd.DataFrame, *, source: Path, context: str) -> None:
        """Note a dataset the run has read: name, schema, size and digest, not the records."""

        def send() -> None:
            import mlflow.data
            from mlflow.entities import DatasetInput, InputTag

            dataset = mlflow.data.from_pandas(table, source=str(source), name=name)  # type: ignore[attr-defined]
            tags = [InputTag("mlflow.data.context", context)]
            self._client.log_inputs(self.run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])

        self._try(send)

    def log_samples(self, name: str, table: pd.DataFrame, *, rows: int = 50) -> None:
        """Keep the first rows of a table as `name` (.json), which MLflow shows as a table."""
        self._try(lambda: self._client.log_table(self.run_id, table.head(rows), name))

    def finish(self, status: str = "FINISHED") -> None:
        """Set the status; a later step may still add to the run."""
        self._try(lambda: self._client.set_terminated(self.run_id, status))

    def _try(self, send: Callable[[], None]) -> None:
        if self.run_id is None:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's hints about schemas, sources and pandas: not for our users
                send()
        except Exception as error:  # whatever MLflow, SQL or the network raise, the work goes on
            _warn(error)
            self.run_id = None


def open_run(config: Config, layout: Layout, seed: int, checkpoint: str | None) -> Run:
    """The run of one checkpoint of one seed, or with None the seed's own; made if it is not there."""
    try:
        with _creating(layout):
            client = _client(layout)
            run_id = _seed_run(client, config, seed)
            if checkpoint is not None:
                run_id = _checkpoint_run(client, config, seed, checkpoint, run_id)
        client.update_run(run_id, status="RUNNING")
    except Exception as error:  # as above
        _warn(error)
        return Run(_Nobody(), None)
    run = Run(client, run_id)
    atexit.register(lambda: run.finish("FAILED" if hasattr(sys, "last_type") else "FINISHED"))
    return run


def create_runs(config: Config, layout: Layout, seeds: Sequence[int]) -> None:
    """Make the database, the experiment, and a run for every seed and checkpoint."""
    try:
        with _creating(layout):
            client = _client(layout)
            for seed in seeds:
                parent = _seed_run(client, config, seed)
                for checkpoint in (BASE, *config.checkpoints):
                    _checkpoint_run(client, config, seed, checkpoint, parent)
    except Exception as error:  # as above
        _warn(error)


def tracking_uri(layout: Layout) -> str:
    """Where MLflow keeps its records: MLFLOW_TRACKING_URI, else an sqlite file beside the results."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home(layout) / 'mlflow.db'}"


def made_from(config: Config, checkpoint: str) -> str:
    """Digest of all config keys behind a checkpoint's weights: other branches of the tree do not count."""
    plain = as_plain(config)
    lineage, name = [], checkpoint
    while name != BASE:
        lineage.append(plain["checkpoints"][name])
        name = config.checkpoints[name].parent
    keys = set(plain) - {"name", "seeds", "checkpoints", "evaluation", "runtime"}
    return digest_of({"lineage": lineage, **{key: plain[key] for key in sorted(keys)}})


class _Nobody:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _home(layout: Layout) -> Path:
    return layout.root.parent.resolve()


def _client(layout: Layout) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    _home(layout).mkdir(parents=True, exist_ok=True)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri(layout))


@contextmanager
def _creating(layout: Layout) -> Iterator[None]:
    _home(layout).mkdir(parents=True, exist_ok=True)
    with (_home(layout) / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _seed_run(client: Any, config: Config, seed: int) -> str:
    tags = {_SEED: str(seed), _CHECKPOINT: _SEED_RUN}
    return _find_or_create(client, config, f"seed {seed}", tags, {})


def _checkpoint_run(client: Any, config: Config, seed: int, checkpoint: str, parent: str) -> str:
    revision = git_revision()
    tags = {_SEED: str(seed), _CHECKPOINT: checkpoint, _MADE_FROM: made_from(config, checkpoint)}
    tags |= {"mlflow.source.git.commit": revision}
    return _find_or_create(client, config, f"{checkpoint}, seed {seed}", tags, {"mlflow.parentRunId": parent})


def _find_or_create(client: Any, config: Config, name: str, tags: dict[str, str], more: dict[str, str]) -> str:
    experiment = client.get_experiment_by_name(config.name)
    if experiment is None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        database = client.tracking_uri.removeprefix("sqlite:///")
        store = None if uri else (Path(database).parent / "mlartifacts" / config.name).as_uri()
        experiment_id = client.create_experiment(config.name, artifact_location=store)
    else:
        experiment_id = experiment.experiment_id
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in sorted(tags.items()))
    found = client.search_runs([experiment_id], filter_string=wanted, max_results=1)
    if found:
        return str(found[0].info.run_id)
    every = {
        **tags,
        **more,
        "hermesflow.config": digest_of(as_plain(config)),
        "mlflow.source.git.commit": git_revision(),
    }
    return str(client.create_run(experiment_id, tags=every, run_name=name).info.run_id)


_warned = False


def _warn(error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        print(f"tracking stopped, the work goes on: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
