import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from hermesflow.cli import main
from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.tracking import runs, spool
from hermesflow.tracking.delivery import Mlflow
from hermesflow.tracking.spool import Record, Spool
from mlflow_world import Gate, MlflowServer, forked, free_port

SMOKE = Path(__file__).parents[1] / "config" / "smoke.yaml"
CONFIG = load_config(SMOKE)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """A results folder with database and runs for seeds 0 and 1."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    layout = Layout(tmp_path_factory.mktemp("results") / "smoke")
    runs.create_runs(CONFIG, layout, [0, 1])
    return layout


@pytest.fixture(scope="module")
def client(layout):
    return Mlflow(layout.root.parent, None).client()


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
    runs.create_runs(CONFIG, layout, [0, 1])
    assert len(runs_of(client)) == before


def test_curves_artifacts_and_inputs_are_kept(layout, client, tmp_path):
    run = runs.open_run(CONFIG, layout, 0, "pair-1")
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
    assert runs.open_run(CONFIG, layout, 1, "und-1").run_id == runs.open_run(CONFIG, layout, 1, "und-1").run_id
    assert runs.open_run(CONFIG, layout, 1, "und-1").run_id != runs.open_run(CONFIG, layout, 0, "und-1").run_id


def test_another_beta_is_another_run_of_that_checkpoint_alone(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text(SMOKE.read_text().replace("pair-2: {", "pair-2: {beta: 0.9, "))
    other = load_config(file)
    differ = {name for name in CONFIG.checkpoints if runs.made_from(CONFIG, name) != runs.made_from(other, name)}
    assert differ == {"pair-2"}


def test_many_processes_at_once_on_a_new_database(tmp_path):
    code = (
        "import sys, pathlib; from hermesflow.tracking import runs; from hermesflow.core.files import Layout\n"
        "from hermesflow.config.load import load_config\n"
        "layout = Layout(pathlib.Path(sys.argv[2]) / 'smoke')\n"
        "run = runs.open_run(load_config(sys.argv[1]), layout, 0, sys.argv[3])\n"
        "run.log({'loss': 1.0}, step=1)\n"
        "print(run.run_id)\n"
    )
    command = [sys.executable, "-c", code, str(SMOKE), str(tmp_path)]
    jobs = [subprocess.Popen([*command, name], stdout=-1, stderr=-1, text=True) for name in ("base", "pair-1", "und-1")]
    ids = [job.communicate(timeout=300) for job in jobs]
    assert all(job.returncode == 0 for job in jobs), ids
    assert len({out for out, _ in ids} - {"None\n"}) == 3, ids


def test_uri_can_be_set_from_outside(monkeypatch, tmp_path):
    layout = Layout(tmp_path / "results" / "micro")
    assert runs.tracking_uri(layout) == f"sqlite:///{tmp_path}/results/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert runs.tracking_uri(layout) == "http://host:5000"


@pytest.fixture
def impatient(monkeypatch):
    """A server that failed is tried again at once."""
    monkeypatch.setattr(spool, "PAUSE", 0.0)
    monkeypatch.setattr(spool, "SHARE", 0)


def test_a_database_that_fails_gets_its_records_later(layout, client, impatient, capsys):
    run = runs.open_run(CONFIG, layout, 0, "gen-1")
    database = sqlite3.connect(layout.root.parent / "mlflow.db")
    run.log({"loss": 1.0}, step=1)
    database.execute("ALTER TABLE metrics RENAME TO hidden")
    run.log({"loss": 2.0}, step=2)
    database.execute("ALTER TABLE hidden RENAME TO metrics")
    run.log({"loss": 3.0}, step=3)
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert spool.waiting(layout.root.parent) == []


def test_what_cannot_be_recorded_is_told_of_and_stops_nothing(layout, capsys):
    run = runs.open_run(CONFIG, layout, 0, "base")
    run.log({"loss": "no number"})
    assert "cannot be recorded, the work goes on" in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One real server for all tests below; the one that kills it starts it again."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def gate(server):
    gate = Gate(server.port)
    yield gate
    gate.close()


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Results of a config that no other test has, and a way to ask the server about its runs."""
    config = load_config(_renamed(tmp_path))

    class World:
        layout, home = Layout(tmp_path / "results" / config.name), tmp_path / "results"

        def log_to(self, uri):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            return self

        def open(self, checkpoint="pair-1"):
            return runs.open_run(config, self.layout, 0, checkpoint)

        def found(self, server, name="pair-1, seed 0"):
            self.client = Mlflow(self.home, server.uri).client()
            experiment = self.client.get_experiment_by_name(config.name)
            assert experiment.artifact_location.startswith("mlflow-artifacts:"), "files do not go through the server"
            runs = [r for r in self.client.search_runs([experiment.experiment_id]) if r.info.run_name == name]
            assert len(runs) == 1
            return runs[0]

        def steps(self, server):
            run_id = self.found(server).info.run_id
            return [(m.step, m.value) for m in self.client.get_metric_history(run_id, "loss")]

        def sync(self):
            return main.main(["sync", "--results", str(self.home)])

        def leave_behind(self, server, steps, key="loss"):
            """A spool whose process is gone."""
            own, name = Spool(self.home), runs._run_name(config, 0, "pair-1")
            for step in steps:
                points = [[key(step) if callable(key) else key, step / 8, 1000 + step, step]]
                own.add(Record(server.uri, name, "metrics", 1000 + step, {"points": points}))
            own._lock.close()
            return own

    return World()


def _renamed(folder):
    name = f"smoke-{folder.name}"
    path = folder / "config.yaml"
    path.write_text(SMOKE.read_text().replace("name: smoke", f"name: {name}", 1))
    return path


def log_everything(run, folder):
    """One record of every kind besides metrics."""
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "answer.md").write_text("yes")
    run.log_artifacts(folder / "report", "report")
    shutil.rmtree(folder / "report")  # what was logged must not depend on it any more
    frame = pd.DataFrame({"id": ["p1", "p2"], "caption": ["a circle", "a square"]})
    run.log_samples("preferences.json", frame)
    run.log_inputs("preferences", frame, source=folder / "p.parquet", context="training")


def check_everything(world, server):
    run = world.found(server)
    client, run_id = world.client, run.info.run_id
    assert [f.path for f in client.list_artifacts(run_id, "report")] == ["report/answer.md"]
    assert len(list(server.folder.glob(f"artifacts/*/{run_id}/artifacts/report/answer.md"))) == 1
    table = client.load_table(run.info.experiment_id, "preferences.json", run_ids=[run_id])
    assert list(table["caption"]) == ["a circle", "a square"]
    assert [i.dataset.name for i in run.inputs.dataset_inputs] == ["preferences"]
    assert run.data.tags["mlflow.parentRunId"] == world.found(server, "seed 0").info.run_id


def train(tell, world, folder, steps):
    """A process that logs as training does."""
    run = world.open()
    for step in range(steps):
        run.log({"loss": step / 8, "rewards/margins": -step}, step=step)
        if step == steps // 2:
            log_everything(run, folder)
        tell(step)
        time.sleep(0.005)
    run.finish()
    tell("end")


def test_a_server_killed_in_the_middle_of_200_steps_gets_each_once(server, world, tmp_path):
    world.log_to(server.uri)
    job, told = forked(train, world, tmp_path, 200)
    while told() != 60:
        pass
    server.kill()
    while told() != "end":
        pass
    job.join(120)
    assert job.exitcode == 0
    assert len(spool.waiting(world.home)) == 1
    server.start()
    assert world.sync() == 0
    assert world.steps(server) == [(step, step / 8) for step in range(200)]
    assert world.found(server).info.status == "FINISHED"
    check_everything(world, server)
    assert spool.waiting(world.home) == []


def test_a_server_absent_from_the_start_and_a_killed_process(server, world, tmp_path, capsys):
    absent = f"http://127.0.0.1:{free_port()}"
    world.log_to(absent)
    job, told = forked(lambda tell: (train(tell, world, tmp_path, 20), time.sleep(600)))
    while told() != "end":
        pass
    assert world.sync() == 0
    assert "left alone, its process lives" in capsys.readouterr().out
    job.kill()
    job.join(120)
    (folder,) = spool.waiting(world.home)
    with (folder / "records.jsonl").open("a") as file:
        file.write('\n{"server": "http://cut')

    assert world.sync() == 1
    told = capsys.readouterr().err
    assert "Nothing is lost" in told
    assert absent in told
    assert "Traceback" not in told
    world.log_to(server.uri)
    assert world.sync() == 0
    assert "1 cut short" in capsys.readouterr().out
    assert world.steps(server) == [(step, step / 8) for step in range(20)]
    check_everything(world, server)
    assert world.sync() == 0
    assert capsys.readouterr().out == ""


def test_when_the_server_is_back_the_kept_records_go_first(server, gate, world, tmp_path, impatient, capsys):
    gate.open = False
    run = world.log_to(gate.uri).open()
    run.log({"loss": 0.0}, step=0)
    log_everything(run, tmp_path)
    gate.open = True
    for step in (1, 2):
        run.log({"loss": step / 8}, step=step)
    assert world.steps(server) == [(0, 0.0), (1, 0.125), (2, 0.25)]
    check_everything(world, server)
    lines = capsys.readouterr().err.splitlines()
    assert ["failed" in line for line in lines] == [True, False]
    assert "is back" in lines[1]
    assert spool.waiting(world.home) == []


def test_a_server_that_is_away_is_called_once_in_500_steps(gate, world):
    gate.open = False
    run = world.log_to(gate.uri).open()
    for step in range(500):
        run.log({"loss": 0.0}, step=step)
    assert gate.calls == 1


def test_a_killed_sync_is_run_again_and_two_at_once_do_no_harm(server, gate, world, capsys):
    def sync(tell):
        tell("begin")
        world.sync()

    for part in range(3):
        world.leave_behind(server, range(100 * part, 100 * part + 100))
    world.log_to(gate.uri)
    gate.left = 14
    job, told = forked(sync)
    told()
    assert gate.stuck.wait(60)
    world.log_to(server.uri)
    assert world.sync() == 0
    assert capsys.readouterr().out.count("left alone") == 1
    assert len(world.steps(server)) >= 200
    job.kill()
    job.join(60)
    assert len(spool.waiting(world.home)) == 1
    assert world.sync() == 0
    assert world.steps(server) == [(step, step / 8) for step in range(300)]
    assert spool.waiting(world.home) == []


def test_a_refused_record_is_named_and_kept_and_blocks_nothing(server, world, capsys):
    world.log_to(server.uri).leave_behind(server, range(10), key=lambda step: "no?such*key" if step == 4 else "loss")
    world.leave_behind(server, range(10, 12))
    for _ in range(2):
        assert world.sync() == 1
        told = capsys.readouterr().err
        assert "1 records were refused" in told
        assert "metrics of step 4 of run `pair-1, seed 0`" in told
        assert [step for step, _ in world.steps(server)] == [step for step in range(12) if step != 4]
    (folder,) = spool.waiting(world.home)
    assert [record.time for record in spool.read(folder)[0]] == [1004]


def test_sending_twice_leaves_everything_once(server, world, tmp_path):
    world.log_to(f"http://127.0.0.1:{free_port()}")
    job, _ = forked(train, world, tmp_path, 4)
    job.join(120)
    shutil.copytree(world.home, tmp_path / "again")
    world.log_to(server.uri)
    assert world.sync() == 0
    world.home = tmp_path / "again"
    assert world.sync() == 0
    assert world.steps(server) == [(step, step / 8) for step in range(4)]
    check_everything(world, server)


def test_a_late_status_does_not_replace_a_newer_one(server, world):
    run = world.log_to(server.uri).open()
    run.finish()
    record = Record(None, run._name, "status", 1000, {"status": "FAILED"})
    Mlflow(world.home, server.uri).deliver(record)
    assert world.found(server).info.status == "FINISHED"


def test_a_host_name_the_server_does_not_allow_is_named_with_the_mend(server, world, capsys):
    world.log_to(f"http://localhost:{server.port}").open().log({"loss": 1.0}, step=1)
    assert f"--allowed-hosts 'localhost:{server.port}'" in capsys.readouterr().err
    assert len(spool.waiting(world.home)) == 1


def test_a_password_in_the_address_is_neither_printed_nor_kept(world, capsys):
    world.log_to(f"http://me:secret@127.0.0.1:{free_port()}").open()
    (folder,) = spool.waiting(world.home)
    assert "secret" not in capsys.readouterr().err + (folder / "records.jsonl").read_text()
