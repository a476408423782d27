import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hermesflow import tracking
from hermesflow.artifacts import Layout
from hermesflow.config import load_config

SMOKE = Path(__file__).parents[1] / "config" / "smoke.yaml"
CONFIG = load_config(SMOKE)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """A results folder with database and runs for seeds 0 and 1."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    layout = Layout(tmp_path_factory.mktemp("results") / "smoke")
    tracking.create_runs(CONFIG, layout, [0, 1])
    return layout


@pytest.fixture(scope="module")
def client(layout):
    return tracking._client(layout)


def runs_of(client):
    return client.search_runs([client.get_experiment_by_name("smoke").experiment_id])


def test_one_parent_per_seed_and_one_child_per_checkpoint(layout, client):
    runs = {run.info.run_id: run for run in runs_of(client)}
    parents = [r for r in runs.values() if "mlflow.parentRunId" not in r.data.tags]
    assert sorted(r.info.run_name for r in parents) == ["seed 0", "seed 1"]
    children = [r for r in runs.values() if "mlflow.parentRunId" in r.data.tags]
    assert len(children) == 2 * (1 + len(CONFIG.checkpoints))
    for child in children:
        parent = runs[child.data.tags["mlflow.parentRunId"]]
        assert parent.data.tags["hermesflow.seed"] == child.data.tags["hermesflow.seed"]
        assert child.data.tags["mlflow.source.git.commit"]
        assert child.data.tags["hermesflow.config"]


def test_creating_again_adds_nothing(layout, client):
    before = len(runs_of(client))
    tracking.create_runs(CONFIG, layout, [0, 1])
    assert len(runs_of(client)) == before


def test_curves_artifacts_and_inputs_are_kept(layout, client, tmp_path):
    run = tracking.open_run(CONFIG, layout, 0, "pair-1")
    for step in (1, 2):
        run.log({"loss": 1 / step, "rewards/margins/t2i": step}, step=step)
    (tmp_path / "table.csv").write_text("a\n1\n")
    run.log_artifacts(tmp_path / "table.csv", "tables")
    run.log_artifacts(tmp_path, "all")
    frame = pd.DataFrame({"id": ["p1"], "chosen_caption": ["a circle"]})
    run.log_samples("preferences.json", frame)
    run.log_inputs("preferences", frame, source=tmp_path / "p.parquet", context="training")

    curve = client.get_metric_history(run.run_id, "loss")
    assert [(m.step, m.value) for m in curve] == [(1, 1.0), (2, 0.5)]
    assert [f.path for f in client.list_artifacts(run.run_id, "tables")] == ["tables/table.csv"]
    assert {f.path for f in client.list_artifacts(run.run_id)} >= {"all", "tables", "preferences.json"}
    inputs = client.get_run(run.run_id).inputs.dataset_inputs
    assert [i.dataset.name for i in inputs] == ["preferences"]
    assert (layout.root.parent / "mlartifacts").is_dir()


def test_the_same_run_is_found_again(layout):
    assert tracking.open_run(CONFIG, layout, 1, "und-1").run_id == tracking.open_run(CONFIG, layout, 1, "und-1").run_id
    assert tracking.open_run(CONFIG, layout, 1, "und-1").run_id != tracking.open_run(CONFIG, layout, 0, "und-1").run_id


def test_another_beta_is_another_run_of_that_checkpoint_alone(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text(SMOKE.read_text().replace("pair-2: {", "pair-2: {beta: 0.9, "))
    other = load_config(file)
    differ = {
        name for name in CONFIG.checkpoints if tracking.made_from(CONFIG, name) != tracking.made_from(other, name)
    }
    assert differ == {"pair-2"}


def test_many_processes_at_once_on_a_new_database(tmp_path):
    code = (
        "import sys, pathlib; from hermesflow import tracking; from hermesflow.artifacts import Layout\n"
        "from hermesflow.config import load_config\n"
        "layout = Layout(pathlib.Path(sys.argv[2]) / 'smoke')\n"
        "run = tracking.open_run(load_config(sys.argv[1]), layout, 0, sys.argv[3])\n"
        "run.log({'loss': 1.0}, step=1)\n"
        "print(run.run_id)\n"
    )
    command = [sys.executable, "-c", code, str(SMOKE), str(tmp_path)]
    jobs = [subprocess.Popen([*command, name], stdout=-1, stderr=-1, text=True) for name in ("base", "pair-1", "und-1")]
    ids = [job.communicate(timeout=300) for job in jobs]
    assert all(job.returncode == 0 for job in jobs), ids
    assert len({out for out, _ in ids} - {"None\n"}) == 3, ids


def test_a_broken_server_stops_the_tracking_and_not_the_work(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/such/place/mlflow.db")
    monkeypatch.setattr(tracking, "_warned", False)
    run = tracking.open_run(CONFIG, Layout(tmp_path / "smoke"), 0, "base")
    run.log({"loss": 1.0}, step=1)
    run.log_artifacts(tmp_path)
    assert capsys.readouterr().err.count("tracking stopped, the work goes on") == 1


def test_a_failing_call_warns_once_and_silences_the_run(monkeypatch, capsys):
    class Client:
        calls = 0

        def log_batch(self, *args, **kwargs):
            self.calls += 1
            raise OSError("disk full")

    monkeypatch.setattr(tracking, "_warned", False)
    client = Client()
    run = tracking.Run(client, "r1")
    run.log({"a": 1})
    run.log({"a": 2})
    assert client.calls == 1
    assert capsys.readouterr().err.count("disk full") == 1


def test_uri_can_be_set_from_outside(monkeypatch, tmp_path):
    layout = Layout(tmp_path / "results" / "micro")
    assert tracking.tracking_uri(layout) == f"sqlite:///{tmp_path}/results/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking.tracking_uri(layout) == "http://host:5000"
