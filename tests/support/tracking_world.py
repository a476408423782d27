"""A results folder as the stages leave it, made without training: manifests, histories, figures and tables."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hermesflow.config.experiment import BASE, Config
from hermesflow.config.load import load_config
from hermesflow.config.reads import params_of
from hermesflow.core.files import Layout, new_manifest, write_json, write_manifest, write_table
from hermesflow.tracking.store import Store

STEPS = 6
SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"


def smoke() -> Config:
    """The smoke config with two checkpoints, the second with a beta of its own."""
    config = load_config(SMOKE)
    tree = {
        "pair-1": config.checkpoints["pair-1"],
        "pair-2": replace(config.checkpoints["pair-2"], beta=0.9, candidates=2),
    }
    return replace(config, checkpoints=tree)


def row(checkpoint: str, step: int) -> dict[str, float]:
    """Metrics of a training step."""
    metrics = {"loss": 1 / step, "rewards/margins/t2i": float(step), "lr": 1e-4}
    return {"loss/mmu": 2 / step, "lr": 1e-3} if checkpoint == BASE else metrics


def manifest_of(layout: Layout, config: Config, checkpoint: str, seed: int = 0) -> dict:
    """The manifest of a checkpoint's weights, as the stage makes it before it trains."""
    stage = "base" if checkpoint == BASE else "train"
    inputs = [layout.data("pairs")]
    if checkpoint != BASE:
        inputs.append(layout.checkpoint(seed, checkpoint) / "preferences" / "preferences.parquet")
    return new_manifest(config=params_of(config, stage, checkpoint), inputs=inputs, seed=seed)


def make_upstream(layout: Layout, config: Config, checkpoint: str, seed: int = 0) -> None:
    """What is there before a checkpoint is trained."""
    write_table(layout.data("pairs"), pd.DataFrame({"id": ["p1", "p2"], "caption": ["a circle", "a square"]}))
    write_manifest(layout.root / "data", config=params_of(config, "data"), inputs=[], seed=7)
    write_manifest(layout.tokenizer, config=params_of(config, "tokenizer"), inputs=[])
    if checkpoint != BASE:
        parent = layout.checkpoint(seed, config.checkpoints[checkpoint].parent)
        for name in ("candidates", "scores"):
            write_manifest(parent / name, config=params_of(config, f"gather_{name}"), inputs=[], seed=seed)
        folder = layout.checkpoint(seed, checkpoint) / "preferences"
        write_table(folder / "preferences.parquet", pd.DataFrame({"id": ["p1"], "chosen_caption": ["a circle"]}))
        write_manifest(folder, config=params_of(config, "prefer", checkpoint), inputs=[], seed=seed)


def make_weights(layout: Layout, config: Config, checkpoint: str, seed: int = 0, *, scale: float = 1.0) -> None:
    """What training leaves, but for the weights."""
    folder, steps = layout.checkpoint(seed, checkpoint) / "model", range(1, STEPS + 1)
    rows = [{"step": s, **{key: scale * value for key, value in row(checkpoint, s).items()}} for s in steps]
    write_table(folder / "history.csv", pd.DataFrame(rows))
    write_json(folder / "manifest.json", manifest_of(layout, config, checkpoint, seed))


def make_evaluation(layout: Layout, config: Config, checkpoint: str, seed: int = 0, *, gap: float = 0.25) -> None:
    """What the evaluation leaves, but for samples."""
    folder = layout.checkpoint(seed, checkpoint) / "evaluation"
    write_json(folder / "metrics.json", {"gap/paper/gap": gap, "fid": 2.0})
    write_table(folder / "captions.parquet", pd.DataFrame({"id": ["g1"], "caption": ["a red circle"]}))
    settings = params_of(config, "evaluate", checkpoint)
    write_manifest(folder, config=settings, inputs=[layout.data("pairs")], seed=seed)


def make_results(home: Path, config: Config, seeds: tuple[int, ...] = (0,)) -> Layout:
    """Everything of a config, in `home`."""
    layout = Layout(home / config.name)
    for seed in seeds:
        for checkpoint in (BASE, *config.checkpoints):
            make_upstream(layout, config, checkpoint, seed)
            make_weights(layout, config, checkpoint, seed)
            make_evaluation(layout, config, checkpoint, seed)
    (layout.report / "tables").mkdir(parents=True)
    (layout.report / "answer.md").write_text("yes")
    (layout.report / "tables" / "table4_gap.csv").write_text("model,gap\nbase,0.25\n")
    return layout


class Database:
    """The sqlite database of a results folder."""

    def __init__(self, home: Path, empty: Path) -> None:
        """Start from an empty database: to create one takes seconds."""
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty, home / "mlflow.db")
        self.home = home

    @property
    def client(self):
        return Store(self.home).client


def runs_of(client, experiment: str = "smoke") -> dict:
    """Runs by name; a name that two have is an error."""
    runs = all_runs(client, experiment)
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs), [run.info.run_name for run in runs]
    return named


def all_runs(client, experiment: str = "smoke") -> list:
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def curve(client, run, key: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def whole_curve(checkpoint: str = "pair-1", key: str = "loss") -> list[tuple[int, float]]:
    return [(step, row(checkpoint, step)[key]) for step in range(1, STEPS + 1)]


def columns_of(experiment) -> set[str]:
    """Columns of the experiment's saved view."""
    view = json.loads(experiment.tags["mlflow.sharedViewState.hermesflow"])
    return set(json.loads(view["state"])["selectedColumns"])
