"""Runs in MLflow: one for each seed, and nested in it one for each checkpoint, filled from results/.

A run is found by its tags, so the same results may be logged again, by any process, and change nothing. While a model
is trained its steps are logged as they happen, where the store answers; what it missed follows from history.csv.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hermesflow.config.experiment import BASE
from hermesflow.core.errors import HermesflowError, Interrupted
from hermesflow.core.files import Layout, digest_of, sha256, write_json
from hermesflow.tracking.results import MANIFEST, Results, fingerprint, made_from, milliseconds, state_of
from hermesflow.tracking.store import VIEW, Point, Store

SEED, CHECKPOINT, CONFIG = "hermesflow.seed", "hermesflow.checkpoint", "hermesflow.config"
REVISION = "mlflow.source.git.commit"
MADE_FROM, HISTORY, STATE = "hermesflow.made_from", "hermesflow.history", "hermesflow.state"
"""Digests of what the weights are made from, of history.csv once it is logged, and of all results that are logged."""
CREDIT = "hermesflow.credit"
"""Licence line of the pictures in the samples."""
SEED_RUN = "all"
"""Value of the checkpoint tag of a seed's run."""


class LiveRun:
    """The run of a checkpoint that is being trained."""

    def __init__(self, store: Store, results: Results) -> None:
        """Take the store and what the checkpoint is made from; nothing is called yet."""
        self._store, self._results = store, results
        self._waiting: list[Point] = []
        self._run_id: str | None = None
        self._known: dict[str, dict[int, float]] = {}

    def __enter__(self) -> Self:
        """Create the run, or go on with that of a training that was interrupted."""
        self._store.attempt(self._open)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Mark the run of a training that did not end well; `log_results` marks the others as finished."""
        if kind and self._run_id:
            status = "KILLED" if issubclass(kind, Interrupted) or not issubclass(kind, Exception) else "FAILED"
            self._store.attempt(lambda: self._store.client.set_terminated(self._run_id, status), live=True)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log the metrics of a step, and those of earlier steps that could not be logged."""
        now = _now()
        self._waiting += [(key, value, now, step) for key, value in metrics.items()]
        self._store.attempt(self._send, live=True)

    def _open(self) -> str:
        if self._run_id is None:
            run_id = _checkpoint_run(self._store, self._results, _now(), _is_unfinished).info.run_id
            self._store.client.update_run(run_id, status="RUNNING")
            _describe(self._store, run_id, self._results, self._results.params)
            self._run_id = run_id
        return self._run_id

    def _send(self) -> None:
        _log_new(self._store, self._open(), self._waiting, self._known)
        self._waiting.clear()


def open_run(layout: Layout, seed: int, checkpoint: str, manifest: Mapping[str, Any]) -> LiveRun:
    """A context manager that logs a training while it runs.

    Args:
        layout: where the results are.
        seed: run seed.
        checkpoint: what is trained.
        manifest: what the weights are made from, as it will stand beside them.
    """
    return LiveRun(Store(layout.root.parent), Results(layout, seed, checkpoint, manifest))


def log_results(layout: Layout, *, seed: int | None = None, checkpoint: str = BASE) -> None:
    """Log what is new of one checkpoint, or without a seed of a whole config.

    A store that fails is reported on stderr and stops nothing; `sync` logs the same later.
    """
    store = Store(layout.root.parent)
    runs = _runs_of(layout) if seed is None else [(seed, checkpoint)]
    store.attempt(lambda: [_log(store, layout, *run) for run in runs])


def sync(results: Path) -> Iterator[str]:
    """Log what is new of all configs; yield a line about each.

    Raises:
        HermesflowError: the store does not answer, or some results could not be logged.
    """
    store, failures = Store(results), list[str]()
    for root in sorted({path.parents[3] for path in results.glob(f"*/seed*/*/model/{MANIFEST}")}):
        layout, changed = Layout(root), 0
        for seed, checkpoint in _runs_of(layout):
            try:
                changed += _log(store, layout, seed, checkpoint)
            except Exception as error:  # whatever MLflow, SQL, the network or unreadable results raise
                failures.append(f"{root.name}, {_name(seed, checkpoint)}: {store.explain(error)}")
                _require_answer(store)
        page = f"#/experiments/{store.experiment(root.name)}/runs{VIEW}"
        yield f"{root.name}: {changed} runs new or changed in {store.title}; its columns are at {page}"
    if failures:
        raise HermesflowError(f"{len(failures)} runs could not be logged:\n" + "\n".join(failures))


def _require_answer(store: Store) -> None:
    try:
        store.client.search_experiments(max_results=1)
    except Exception as error:  # whatever MLflow, SQL or the network raise
        raise HermesflowError(
            f"{store.title} does not answer ({store.explain(error)}). Nothing is lost: it is all in the results. Start "
            "the server (docs/mlflow.md), or set MLFLOW_TRACKING_URI to its address, and run this again."
        ) from error


def _runs_of(layout: Layout) -> list[tuple[int, str | None]]:
    """Seeds and checkpoints whose weights are there, parents first; then each seed alone."""
    paths = sorted(layout.root.glob(f"seed*/*/model/{MANIFEST}"), key=milliseconds)
    runs = [(int(path.parents[2].name.removeprefix("seed")), path.parents[1].name) for path in paths]
    return [*runs, *((seed, None) for seed in sorted({seed for seed, _ in runs}))]


def _log(store: Store, layout: Layout, seed: int, checkpoint: str | None) -> bool:
    """Log the results of a checkpoint, or with None the report to the seed's run; whether anything was new."""
    if checkpoint is not None:
        with store.lock():  # two processes that log one run at once both insert its tags, and one fails
            return _log_checkpoint(store, Results.read(layout, seed, checkpoint))
    run, files = _seed_run(store, layout, seed), [path for path in layout.report.rglob("*") if path.is_file()]
    state = state_of(files, layout.root)
    if not files or run.data.tags.get(STATE) == state:
        return False
    store.log_params(run.info.run_id, {"seed": str(seed)})
    store.client.log_artifacts(run.info.run_id, str(layout.report))
    _finish(store, run, max(map(milliseconds, files)), {STATE: state})
    return True


def _log_checkpoint(store: Store, results: Results) -> bool:
    params, history, state = results.all_params, sha256(results.history)[:16], results.state()

    def fits(run: Any) -> bool:
        """Whether nothing that is logged contradicts the results: what is logged cannot be changed."""
        known = run.data.params
        same = all(known.get(key, value) == value for key, value in params.items())
        return same and run.data.tags.get(HISTORY, history) == history

    run = _checkpoint_run(store, results, milliseconds(results.history), fits)
    run_id = run.info.run_id
    for other in store.runs(results.layout.root.name, _tags(results)):
        if other.info.run_id != run_id and _is_unfinished(other):  # of a training that made the same once more
            store.client.delete_run(other.info.run_id)
    if run.data.tags.get(STATE) == state:
        return False
    _describe(store, run_id, results, params)
    _log_new(store, run_id, results.curves(), {})
    if figures := results.figures():
        model_id = _model_of(store, run_id, results)
        known = store.client.get_run(run_id).data.metrics
        store.log_points(run_id, [point for point in figures if known.get(point[0]) != point[1]], model_id)
    tables = results.tables()
    if samples := results.samples():
        tables["samples.json"], image = samples
        store.client.log_image(run_id, image, "samples.png")
        if results.credit:
            store.client.set_tag(run_id, CREDIT, results.credit)
    for name, table in tables.items():  # not `log_table`, which appends to a table that is there
        store.client.log_text(run_id, table.to_json(orient="split", index=False, date_format="iso"), name)
    listing = json.dumps([{"path": name, "type": "table"} for name in tables])
    tags = {"mlflow.loggedArtifacts": listing, REVISION: results.manifest["git_revision"]}
    _finish(store, run, milliseconds(results.history), {**tags, HISTORY: history, STATE: state})
    return True


def _finish(store: Store, run: Any, ended: int, tags: Mapping[str, str]) -> None:
    store.client.set_terminated(run.info.run_id, "FINISHED", end_time=max(ended, run.info.start_time))
    for key, value in tags.items():
        store.client.set_tag(run.info.run_id, key, value)


def _seed_run(store: Store, layout: Layout, seed: int) -> Any:
    """The run that those of a seed's checkpoints are nested in."""
    tags = {SEED: str(seed), CHECKPOINT: SEED_RUN}
    data = layout.root / "data" / MANIFEST
    started = milliseconds(data) if data.exists() else _now()
    return store.run(layout.root.name, _name(seed), started, tags)


def _checkpoint_run(store: Store, results: Results, started: int, fits: Callable[[Any], bool]) -> Any:
    """The run of a checkpoint made from the same that fits; created if there is none."""
    more_tags = {
        "mlflow.parentRunId": _seed_run(store, results.layout, results.seed).info.run_id,
        "mlflow.source.name": "hermesflow",
        REVISION: results.manifest["git_revision"],
        CONFIG: digest_of(results.params),
    }
    name = _name(results.seed, results.checkpoint)
    return store.run(results.layout.root.name, name, started, _tags(results), more_tags, fits)


def _name(seed: int, checkpoint: str | None = None) -> str:
    return f"{checkpoint}, seed {seed}" if checkpoint else f"seed {seed}"


def _tags(results: Results) -> dict[str, str]:
    return {SEED: str(results.seed), CHECKPOINT: results.checkpoint, MADE_FROM: made_from(results.manifest)}


def _is_unfinished(run: Any) -> bool:
    return HISTORY not in run.data.tags


def _now() -> int:
    return time.time_ns() // 1_000_000


def _describe(store: Store, run_id: str, results: Results, params: Mapping[str, str]) -> None:
    """Log params and datasets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    store.log_params(run_id, params)
    inputs = [
        DatasetInput(Dataset(**fields), [InputTag("mlflow.data.context", context)])
        for context, fields in results.datasets()
    ]
    with store.lock():  # two processes that log one dataset at once: MLflow inserts it twice, and fails
        store.client.log_inputs(run_id, inputs)


def _log_new(store: Store, run_id: str, points: list[Point], known: dict[str, dict[int, float]]) -> None:
    """Log points of which the run does not have the value at their step.

    Args:
        store: has the run.
        run_id: the run.
        points: of any steps.
        known: values by key and step that the run has; keys that are missing are looked up.
    """
    for key in {key for key, *_ in points} - known.keys():
        known[key] = {entry.step: entry.value for entry in store.client.get_metric_history(run_id, key)}
    new = [(key, value, time, step) for key, value, time, step in points if known[key].get(step) != value]
    store.log_points(run_id, new)
    for key, value, _, step in new:
        known[key][step] = value


def _model_of(store: Store, run_id: str, results: Results) -> str:
    """Id of the run's logged model, created if there is none."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    with store.lock():
        run = store.client.get_run(run_id)
        if run.outputs.model_outputs:
            return str(run.outputs.model_outputs[0].model_id)
        model = store.client.create_logged_model(
            run.info.experiment_id, name="model", source_run_id=run_id, params=results.params
        )
        with tempfile.TemporaryDirectory() as folder:
            _write_model(Path(folder), results, model)
            store.client.log_model_artifacts(model.model_id, folder)
        store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        return str(model.model_id)


def _write_model(folder: Path, results: Results, logged: Any) -> None:
    """Write the files of a logged model: MLmodel, and the reference that `tracking.model` loads."""
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    reference = {
        "model": str((results.folder / "model").resolve()),
        "tokenizer": str(results.layout.tokenizer.resolve()),
        "fingerprint": fingerprint(results.folder / "model"),
        "sampling": results.evaluated_with["sampling.images"],
        "max_new_tokens": results.evaluated_with["sampling.captions.max_new_tokens"],
    }
    write_json(folder / "checkpoint.json", reference)
    inputs = Schema([ColSpec("binary", "image", required=False), ColSpec("string", "prompt", required=False)])
    outputs = Schema([ColSpec("string", "caption", required=False), ColSpec("binary", "image", required=False)])
    signature = ModelSignature(inputs, outputs, ParamSchema([ParamSpec("seed", "long", 0)]))
    model = Model(model_id=logged.model_id, run_id=logged.source_run_id, signature=signature)
    add_to_model(model, loader_module="hermesflow.tracking.model", data="checkpoint.json")
    model.save(str(folder / "MLmodel"))
