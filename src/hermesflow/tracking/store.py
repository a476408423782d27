"""MLflow at one address: runs found by tags or created, and calls that may fail without harm."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

Point: TypeAlias = tuple[str, float, int, int]
"""A metric's key and value, a time in milliseconds since 1970, and a step."""

NOT_FINITE = "hermesflow.not_finite"
"""Tag of a run: metrics and steps whose values were nan or infinite, and are therefore left out."""
PAUSE = 30.0
"""Seconds until a store that failed is called again."""
SHARE = 20
"""Or this many times what the last call took, if that is longer: live logging takes at most 5 % of the time."""
COLUMNS = (
    *("params.`seed`", "params.`checkpoint.parent`", "params.`checkpoint.objective`"),
    *("params.`checkpoint.candidates`", "params.`training.beta`", "params.`training.chosen_nll_weight`"),
    *("params.`training.learning_rate`", "metrics.`gap/paper/gap`", "metrics.`gap/self/gap`"),
    *("metrics.`gap/paper/understanding`", "metrics.`gap/paper/generation`", "metrics.`geneval/overall`"),
    *("metrics.`fid`", "metrics.`loss`"),
)
"""Of the UI's table of runs in the saved view `hermesflow`, where the runs of a seed are below each other."""
VIEW = "?workflowType=machine_learning&viewStateShareKey=hermesflow"
"""Opens an experiment's page for model training in that view."""
_VIEW_STATE = {
    "selectedColumns": COLUMNS,
    "columnOrder": COLUMNS,
    "columnWidths": {column: max(90, 8 * len(column) - 48) for column in COLUMNS},
    "orderByKey": COLUMNS[0],
    "orderByAsc": True,
}
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.sharedViewState.hermesflow": json.dumps(
        {"name": "hermesflow", "createdAt": 0, "state": json.dumps(_VIEW_STATE)}
    ),
}
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that is away is noticed at once; MLflow's own 7 retries take minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_PARAMS, _POINTS, _TAG = 100, 1000, 5000  # MLflow's limits of one call


class Store:
    """The server at MLFLOW_TRACKING_URI, or without one an sqlite file beside the results."""

    def __init__(self, home: Path) -> None:
        """Take the folder of all results; nothing is called yet."""
        for key, value in _SETTINGS.items():
            os.environ.setdefault(key, value)
        self._home, self._server = home.resolve(), os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = self._server or f"sqlite:///{self._home / 'mlflow.db'}"
        self.title = f"MLflow ({_without_password(self.uri)})"
        self._client: Any = None
        self._failed, self._next_call = False, 0.0
        self._locked = False

    @property
    def client(self) -> Any:
        """MLflow's client; the first access creates a missing database."""
        if self._client is None:
            from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # `attempt` reports what fails
            with self.lock():  # several processes that create one sqlite database break it
                self._client = MlflowClient(self.uri)
        return self._client

    def attempt(self, work: Callable[[], object], *, live: bool = False) -> None:
        """Call something that uses the store; a failure is reported on stderr once and raises nothing.

        Args:
            work: called without arguments.
            live: skip it for a while after a call that failed or was slow.
        """
        began = time.monotonic()
        if live and began < self._next_call:
            return
        failed = False
        try:
            work()
        except Exception as error:  # whatever MLflow, SQL, the network or unreadable results raise
            failed = True
            if not self._failed:
                _say(
                    f"{self.title} failed ({self.explain(error)}). The work goes on and nothing is lost: "
                    f"`python -m hermesflow sync --results {os.path.relpath(self._home)}` logs it from the results."
                )
        if self._failed and not failed:
            _say(f"{self.title} is back.")
        self._failed, now = failed, time.monotonic()
        self._next_call = now + max(PAUSE * failed, SHARE * live * (now - began))

    def explain(self, error: Exception) -> str:
        """Describe an error on one line, with its fix where that is known."""
        text = _without_password(" ".join(f"{error}".split()))
        if "Invalid Host" in text:
            host = _without_password(self.uri).rpartition("//")[2].partition("/")[0]
            return f"403, it does not answer to that name: start it with --allowed-hosts '{host}'"
        if "Caused by " in text:  # the end of urllib3's message is the reason
            text = text.rpartition("Caused by ")[2].removesuffix(")")
        return f"{type(error).__name__}: {text[:300]}"

    def experiment(self, name: str) -> str:
        """Id of an experiment for model training, created if missing."""
        entry = self.client.get_experiment_by_name(name)
        if entry is None:
            # a server has its own folder for artifacts; the sqlite file needs one
            folder = None if self._server else (self._home / "mlartifacts" / name).as_uri()
            return str(self.client.create_experiment(name, artifact_location=folder, tags=_EXPERIMENT_TAGS))
        for key, value in _EXPERIMENT_TAGS.items():
            if entry.tags.get(key) != value:
                self.client.set_experiment_tag(entry.experiment_id, key, value)
        return str(entry.experiment_id)

    def runs(self, experiment: str, tags: Mapping[str, str]) -> list[Any]:
        """Runs of an experiment with these tags, oldest first; none if there is no such experiment."""
        if (entry := self.client.get_experiment_by_name(experiment)) is None:
            return []
        conditions = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        order = ["attributes.start_time ASC"]
        return list(self.client.search_runs([entry.experiment_id], filter_string=conditions, order_by=order))

    def run(
        self,
        experiment: str,
        name: str,
        started: int,
        tags: Mapping[str, str],
        more_tags: Mapping[str, str] | None = None,
        fits: Callable[[Any], bool] = lambda run: True,
    ) -> Any:
        """The oldest run with these tags that fits, created if there is none.

        Args:
            experiment: its experiment, created if missing.
            name: of a new run.
            started: of a new run, in milliseconds since 1970.
            tags: of the run.
            more_tags: of a new run.
            fits: whether a run with these tags is the right one.
        """

        def existing() -> Any:
            return next(filter(fits, self.runs(experiment, tags)), None)

        if (run := existing()) is not None:  # without the lock: a server that hangs must not block other processes
            return run
        with self.lock():
            if (run := existing()) is not None:
                return run
            created = {**tags, **(more_tags or {})}
            return self.client.create_run(self.experiment(experiment), start_time=started, tags=created, run_name=name)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log params; MLflow refuses another value of one that is there."""
        from mlflow.entities import Param

        entries = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(entries), _PARAMS):
            self.client.log_batch(run_id, params=entries[start : start + _PARAMS])

    def log_points(self, run_id: str, points: Iterable[Point], model_id: str | None = None) -> None:
        """Log metrics, of the run and of its model if one is given.

        Values that are not finite are left out (MLflow would show infinity as 1.8e308), and tagged `NOT_FINITE`.
        """
        from mlflow.entities import Metric

        points = list(points)
        if wrong := {f"{key} at step {step}" for key, value, _, step in points if not math.isfinite(value)}:
            known = self.client.get_run(run_id).data.tags.get(NOT_FINITE, "").split(", ")
            self.client.set_tag(run_id, NOT_FINITE, ", ".join(sorted({*filter(None, known), *wrong}))[:_TAG])
        entries = [Metric(*point, model_id=model_id, run_id=run_id) for point in points if math.isfinite(point[1])]
        for start in range(0, len(entries), _POINTS):
            self.client.log_batch(run_id, metrics=entries[start : start + _POINTS])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this host's lock on what is created in the store; it may be held already."""
        if self._locked:
            yield
            return
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / ".mlflow.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._locked = True
            try:
                yield
            finally:
                self._locked = False


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def _say(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)
