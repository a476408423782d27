"""MLflow as a projection of results/: a real sqlite store, and a real server that is away, slow, late or killed."""

import dataclasses
import json
import os
import re
import sqlite3
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from hermesflow.cli import main
from hermesflow.config.experiment import as_plain
from hermesflow.core.errors import Interrupted
from hermesflow.core.files import Layout, write_json
from hermesflow.tracking import runs, store
from hermesflow.tracking.results import flat
from hermesflow.tracking.store import Store
from tests.support.mlflow_world import Gate, MlflowServer, forked, free_port
from tests.support.tracking_world import (
    SMOKE,
    STEPS,
    Database,
    all_runs,
    columns_of,
    curve,
    make_evaluation,
    make_results,
    make_upstream,
    make_weights,
    manifest_of,
    row,
    runs_of,
    smoke,
    whole_curve,
)

CONFIG = smoke()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty database, created once."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    home = tmp_path_factory.mktemp("empty")
    assert Store(home).client.search_experiments()
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path, empty):
    return Database(tmp_path / "results", empty).home


@pytest.fixture
def client(home):
    return Store(home).client


def sync(home):
    return main.main(["sync", "--results", str(home)])


@pytest.fixture(scope="module")
def rebuilt(empty, tmp_path_factory):
    """A store that `sync` filled from the results of two seeds, and nothing else."""
    home = Database(tmp_path_factory.mktemp("rebuilt") / "results", empty).home
    make_results(home, CONFIG, seeds=(0, 1))
    assert sync(home) == 0
    return home


def test_a_seed_s_runs_are_nested_in_its_run(rebuilt):
    named = runs_of(Store(rebuilt).client)
    assert len(named) == 2 * (1 + 3)
    for name, run in named.items():
        parent = named[name.rpartition(", ")[2]] if ", " in name else None
        assert run.data.tags.get("mlflow.parentRunId") == (parent and parent.info.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params["seed"] == run.data.tags["hermesflow.seed"] == name[-1]


def test_every_config_value_is_a_param(rebuilt):
    named = runs_of(Store(rebuilt).client)
    base, first, second = (named[f"{name}, seed 0"].data.params for name in ("base", "pair-1", "pair-2"))
    assert (first["training.beta"], second["training.beta"]) == ("0.2", "0.9")
    assert (first["checkpoint.parent"], second["checkpoint.parent"]) == ("base", "pair-1")
    assert second["checkpoint.objective"] == "pair" and second["checkpoint.beta"] == "0.9"
    plain = as_plain(CONFIG)
    for section in ("data", "image_tokenizer", "tokenizer_training", "language_model", "base_training"):
        assert flat({section: plain[section]}).items() <= base.items() & second.items(), section
    for section in ("sampling", "scoring", "preferences", "evaluation"):
        assert flat({section: plain[section]}).items() <= second.items(), section
    assert first["evaluation.bootstrap"] == "50"
    assert "checkpoint.parent" not in base and "checkpoint.beta" not in first


def test_curves_have_steps_and_figures_are_those_of_the_evaluation(rebuilt):
    client = Store(rebuilt).client
    named = runs_of(client)
    for key in ("loss", "rewards/margins/t2i", "lr"):
        assert curve(client, named["pair-2, seed 1"], key) == whole_curve("pair-2", key)
    assert curve(client, named["base, seed 0"], "loss/mmu") == whole_curve("base", "loss/mmu")
    assert named["base, seed 1"].data.metrics["gap/paper/gap"] == 0.25
    assert curve(client, named["base, seed 1"], "fid") == [(0, 2.0)]


def test_datasets_tables_and_the_report_are_there(rebuilt):
    client = Store(rebuilt).client
    named = runs_of(client)
    inputs = named["pair-1, seed 0"].inputs.dataset_inputs
    found = {(entry.dataset.name, entry.tags[0].value) for entry in inputs}
    preferences = "seed0/pair-1/preferences/preferences.parquet"
    expected = {(preferences, "training"), ("data/pairs.parquet", "training"), ("data/pairs.parquet", "evaluation")}
    assert found <= expected and (preferences, "training") in found
    dataset = next(entry.dataset for entry in inputs if entry.dataset.name == preferences)
    columns = json.loads(dataset.schema)["mlflow_colspec"]
    assert [column["name"] for column in columns] == ["id", "chosen_caption"]
    assert json.loads(dataset.profile) == {"num_rows": 1}
    run = named["pair-1, seed 0"]
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "preferences.json")).read_text())
    assert table == {"columns": ["id", "chosen_caption"], "data": [["p1", "a circle"]]}
    assert {"path": "preferences.json", "type": "table"} in json.loads(run.data.tags["mlflow.loggedArtifacts"])
    files = {file.path for file in client.list_artifacts(named["seed 1"].info.run_id)}
    assert files == {"answer.md", "tables"}


def test_the_experiment_opens_for_model_training_with_its_columns(rebuilt):
    client = Store(rebuilt).client
    experiment = client.get_experiment_by_name("smoke")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    named = runs_of(client).values()
    logged = {f"params.`{key}`" for run in named for key in run.data.params}
    logged |= {f"metrics.`{key}`" for run in named for key in run.data.metrics}
    assert {column for column in columns_of(experiment) if column.startswith("params")} <= logged
    assert {"metrics.`gap/paper/gap`", "metrics.`loss`"} <= columns_of(experiment) & logged


def test_revision_and_hash_of_the_config_are_tags(rebuilt):
    named = runs_of(Store(rebuilt).client)
    manifest = json.loads((rebuilt / "smoke" / "seed0" / "pair-1" / "model" / "manifest.json").read_text())
    tags = named["pair-1, seed 0"].data.tags
    assert tags["mlflow.source.git.commit"] == manifest["git_revision"]
    assert len({named[f"{name}, seed 0"].data.tags["hermesflow.config"] for name in ("base", "pair-1", "pair-2")}) == 3


def test_logging_again_changes_nothing(rebuilt, capsys):
    def content():
        with sqlite3.connect(rebuilt / "mlflow.db") as database:
            return "\n".join(database.iterdump())

    before = content()
    assert sync(rebuilt) == 0
    assert capsys.readouterr().out.startswith("smoke: 0 runs new or changed in MLflow")
    runs.log_results(Layout(rebuilt / "smoke"))
    runs.log_results(Layout(rebuilt / "smoke"), seed=1, checkpoint="pair-2")
    assert content() == before


def test_a_store_filled_in_part_is_completed(home, client):
    """A sync that was killed between two calls, as it leaves the tags that say what is logged."""
    layout = make_results(home, CONFIG)
    assert sync(home) == 0
    run = runs_of(client)["pair-1, seed 0"]
    for tag in ("hermesflow.state", "hermesflow.history"):
        client.delete_tag(run.info.run_id, tag)
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("DELETE FROM metrics WHERE step > 3 AND run_uuid = ?", (run.info.run_id,))
    runs.log_results(layout, seed=0, checkpoint="pair-1")
    assert curve(client, runs_of(client)["pair-1, seed 0"]) == whole_curve()


def live(home, checkpoint="pair-1", config=CONFIG):
    layout = Layout(home / config.name)
    make_upstream(layout, config, checkpoint)
    return layout, runs.open_run(layout, 0, checkpoint, manifest_of(layout, config, checkpoint))


def test_steps_are_logged_as_they_happen_and_once(home, client, impatient):
    layout, tracked = live(home)
    with tracked:
        for step in range(1, STEPS + 1):
            tracked.log(row("pair-1", step), step=step)
            run = runs_of(client)["pair-1, seed 0"]
            assert curve(client, run) == whole_curve()[:step]
            assert run.info.status == "RUNNING" and run.data.params["training.beta"] == "0.2"
    make_weights(layout, CONFIG, "pair-1")
    runs.log_results(layout, seed=0, checkpoint="pair-1")
    finished = runs_of(client)["pair-1, seed 0"]
    assert (finished.info.run_id, finished.info.status) == (run.info.run_id, "FINISHED")
    assert curve(client, finished) == whole_curve()
    assert "gap/paper/gap" not in finished.data.metrics
    make_evaluation(layout, CONFIG, "pair-1")
    runs.log_results(layout, seed=0, checkpoint="pair-1")
    assert runs_of(client)["pair-1, seed 0"].data.metrics["gap/paper/gap"] == 0.25


STOPS = [(ValueError("nan"), "FAILED"), (Interrupted("Slurm"), "KILLED"), (KeyboardInterrupt(), "KILLED")]


@pytest.mark.parametrize(("error", "status"), STOPS)
def test_a_training_that_was_stopped_goes_on_in_the_same_run(error, status, home, client, impatient):
    _, tracked = live(home)
    with pytest.raises(type(error)), tracked:
        for step in (1, 2, 3, 4):
            tracked.log(row("pair-1", step), step=step)
        raise error
    assert runs_of(client)["pair-1, seed 0"].info.status == status
    _, tracked = live(home)
    with tracked:
        assert runs_of(client)["pair-1, seed 0"].info.status == "RUNNING"
        for step in range(3, STEPS + 1):  # from the last state on
            tracked.log(row("pair-1", step), step=step)
    assert curve(client, runs_of(client)["pair-1, seed 0"]) == whole_curve()


def test_another_beta_is_another_run_of_that_checkpoint_alone(home, client):
    make_results(home, CONFIG)
    assert sync(home) == 0
    before = {run.info.run_id for run in all_runs(client)}
    changed = dataclasses.replace(CONFIG.checkpoints["pair-2"], beta=0.4)
    other = dataclasses.replace(CONFIG, checkpoints={**CONFIG.checkpoints, "pair-2": changed})
    layout = Layout(home / "smoke")
    make_upstream(layout, other, "pair-2")
    make_weights(layout, other, "pair-2", scale=0.5)
    make_evaluation(layout, other, "pair-2", gap=0.125)
    assert sync(home) == 0
    after = all_runs(client)
    (new,) = [run for run in after if run.info.run_id not in before]
    assert len(after) == len(before) + 1
    assert (new.data.params["training.beta"], new.data.metrics["gap/paper/gap"]) == ("0.4", 0.125)
    same = client.search_runs([new.info.experiment_id], filter_string="params.`training.beta` != '0.2'")
    assert sorted(run.data.metrics["gap/paper/gap"] for run in same) == [0.125, 0.25]


def test_the_same_training_again_is_the_same_run_and_another_result_is_not(home, client, impatient):
    layout = make_results(home, CONFIG)
    assert sync(home) == 0
    first = runs_of(client)["pair-1, seed 0"]
    for scale, count in ((1.0, 1), (0.5, 2)):  # the second, after a change of code, ends in other weights
        _, tracked = live(home)
        with tracked:
            for step in range(1, STEPS + 1):
                tracked.log({key: scale * value for key, value in row("pair-1", step).items()}, step=step)
        make_weights(layout, CONFIG, "pair-1", scale=scale)
        assert sync(home) == 0
        again = [run for run in all_runs(client) if run.info.run_name == "pair-1, seed 0"]
        assert len(again) == count
        assert {run.info.status for run in again} == {"FINISHED"}
        assert curve(client, first) == whole_curve()
    new = next(run for run in again if run.info.run_id != first.info.run_id)
    assert curve(client, new) == [(step, value / 2) for step, value in whole_curve()]


def test_another_revision_that_makes_the_same_is_the_same_run(home, client):
    layout = make_results(home, CONFIG)
    assert sync(home) == 0
    path = layout.checkpoint(0, "pair-1") / "model" / "manifest.json"
    write_json(path, {**json.loads(path.read_text()), "git_revision": "abc"})
    assert sync(home) == 0
    assert runs_of(client)["pair-1, seed 0"].data.tags["mlflow.source.git.commit"] == "abc"


def test_a_repeated_evaluation_replaces_figures_and_other_settings_make_another_run(home, client):
    layout = make_results(home, CONFIG)
    assert sync(home) == 0
    make_evaluation(layout, CONFIG, "pair-1", gap=0.5)
    assert sync(home) == 0
    assert runs_of(client)["pair-1, seed 0"].data.metrics["gap/paper/gap"] == 0.5
    other = dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, fid_images=12))
    make_evaluation(layout, other, "pair-1", gap=0.75)
    assert sync(home) == 0
    found = [run for run in all_runs(client) if run.info.run_name == "pair-1, seed 0"]
    figures = {run.data.params["evaluation.fid_images"]: run.data.metrics["gap/paper/gap"] for run in found}
    assert figures == {"24": 0.5, "12": 0.75}
    assert all(curve(client, run) == whole_curve() for run in found)


def test_what_cannot_be_logged_is_named_and_blocks_nothing(home, client, capsys):
    layout = make_results(home, CONFIG)
    write_json(layout.checkpoint(0, "pair-1") / "evaluation" / "metrics.json", {"no?such*key": 1.0})
    (layout.checkpoint(0, "pair-2") / "model" / "manifest.json").write_text('{"cut')
    assert sync(home) == 1
    error = capsys.readouterr().err
    assert "2 runs could not be logged" in error and "Traceback" not in error
    assert "smoke, pair-2, seed 0: ArtifactError" in error and "no?such*key" in error
    named = runs_of(client)
    assert named["base, seed 0"].data.metrics["gap/paper/gap"] == 0.25
    assert curve(client, named["pair-1, seed 0"]) == whole_curve()
    assert client.list_artifacts(named["seed 0"].info.run_id)


def test_training_goes_on_where_nothing_can_be_logged(home, capsys, impatient):
    _, tracked = live(home)
    with tracked:
        tracked.log({"loss": "no number"}, step=1)
    runs.log_results(Layout(home / "absent"), seed=0, checkpoint="pair-1")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("The work goes on and nothing is lost" in line for line in lines)


def test_many_processes_at_once_on_a_new_database(tmp_path):
    def log(tell, checkpoint):
        _, tracked = live(tmp_path / "results", checkpoint)
        with tracked:
            tracked.log(row(checkpoint, 1), step=1)
        tell(tracked._run_id)

    jobs = [forked(log, name) for name in ("base", "pair-1", "pair-2")]
    ids = [told() for _, told in jobs]
    for job, _ in jobs:
        job.join(60)
    assert None not in ids and len(set(ids)) == 3
    assert len(runs_of(Store(tmp_path / "results").client)) == 4


def test_two_syncs_at_once_do_no_harm(home, client):
    make_results(home, CONFIG)
    jobs = [forked(lambda tell: tell(sync(home))) for _ in range(2)]
    assert [told() for _, told in jobs] == [0, 0]
    for job, _ in jobs:
        job.join(60)
    named = runs_of(client)
    assert len(named) == 4
    for name in ("pair-1", "pair-2"):
        assert curve(client, named[f"{name}, seed 0"]) == whole_curve()
        assert len(client.get_run(named[f"{name}, seed 0"].info.run_id).outputs.model_outputs) == 1


def test_steps_of_the_command_line_log_what_they_left(home, client, monkeypatch):
    make_results(home, CONFIG)
    for name in ("evaluate", "report"):
        monkeypatch.setattr(f"hermesflow.stages.{name}.run", lambda *args, **kwargs: None)
    options = ["--config", str(SMOKE), "--results", str(home)]
    one = ["evaluate", *options, "--seed", "0", "--checkpoint", "pair-1"]
    monkeypatch.setenv("RANK", "1")
    assert main.main(one) == 0
    assert client.get_experiment_by_name("smoke") is None, "the first process of a job logs"
    monkeypatch.setenv("RANK", "0")
    assert main.main(one) == 0
    assert set(runs_of(client)) == {"seed 0", "pair-1, seed 0"}
    assert main.main(["report", *options, "--seeds", "0"]) == 0
    assert set(runs_of(client)) == {"seed 0", "base, seed 0", "pair-1, seed 0", "pair-2, seed 0"}


def test_the_address_is_the_environment_s_or_a_file_beside_the_results(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Store(tmp_path / "results").uri == f"sqlite:///{tmp_path}/results/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    assert Store(tmp_path / "results").uri == "http://me:secret@host:5000"
    assert Store(tmp_path / "results").title == "MLflow (http://host:5000)"


@pytest.fixture
def impatient(monkeypatch):
    """A store that failed or was slow is called again at once."""
    monkeypatch.setattr(store, "PAUSE", 0.0)
    monkeypatch.setattr(store, "SHARE", 0)


def test_a_database_that_fails_gets_the_steps_later(home, client, impatient, capsys):
    _, tracked = live(home)
    database = sqlite3.connect(home / "mlflow.db")
    with tracked:
        tracked.log(row("pair-1", 1), step=1)
        database.execute("ALTER TABLE metrics RENAME TO hidden")
        tracked.log(row("pair-1", 2), step=2)
        database.execute("ALTER TABLE hidden RENAME TO metrics")
        tracked.log(row("pair-1", 3), step=3)
        assert curve(client, runs_of(client)["pair-1, seed 0"]) == whole_curve()[:3]
    first, second = capsys.readouterr().err.splitlines()
    assert "hermesflow sync" in first and "is back" in second


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(store.time, "monotonic", lambda: self.now)


def test_a_store_that_is_away_is_called_seldom_and_told_of_once(tmp_path, monkeypatch, capsys):
    clock, server = Clock(monkeypatch), Store(tmp_path)
    work = Mock(side_effect=ConnectionError("away"))
    for _ in range(1000):
        server.attempt(work, live=True)
        clock.now += 0.1
    assert work.call_count <= 1 + 100 / store.PAUSE
    assert len(capsys.readouterr().err.splitlines()) == 1
    server.attempt(work)
    assert work.call_count > 1, "what is not live is always tried"


@pytest.mark.parametrize("fails", [False, True])
def test_a_slow_store_takes_a_twentieth_of_the_time(fails, tmp_path, monkeypatch, capsys):
    clock, server, spent = Clock(monkeypatch), Store(tmp_path), []

    def work():
        clock.now += 10
        spent.append(10)
        if fails:
            raise TimeoutError

    for _ in range(10_000):
        server.attempt(work, live=True)
        clock.now += 0.1
    assert 0.02 * clock.now < sum(spent) <= 0.06 * clock.now
    assert len(capsys.readouterr().err.splitlines()) == fails


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty):
    """One real server for all tests below; the one that kills it starts it again."""
    server = MlflowServer(tmp_path_factory.mktemp("server"), empty)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def gate(server):
    gate = Gate(server.port)
    yield gate
    gate.close()


class World:
    """Results of a config that no other test has, on its way to a server."""

    def __init__(self, home, monkeypatch, name):
        self.config, self.home, self._monkeypatch = dataclasses.replace(CONFIG, name=name), home, monkeypatch
        self.layout = Layout(home / name)

    def log_to(self, uri):
        self._monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return self

    def train(self, tell, pause=0.0):
        """What a training process does."""
        _, tracked = live(self.home, config=self.config)
        with tracked:
            for step in range(1, STEPS + 1):
                tracked.log(row("pair-1", step), step=step)
                tell(step)
                time.sleep(pause)
        make_weights(self.layout, self.config, "pair-1")
        runs.log_results(self.layout, seed=0, checkpoint="pair-1")
        tell("end")

    def check(self, server, name="pair-1, seed 0"):
        client = self.log_to(server.uri).client
        run = runs_of(client, self.config.name)[name]
        assert curve(client, run) == whole_curve()
        assert run.info.status == "FINISHED"
        return run

    @property
    def client(self):
        return Store(self.home).client


@pytest.fixture
def world(monkeypatch, tmp_path):
    return World(tmp_path / "results", monkeypatch, re.sub("[^a-z0-9]", "-", tmp_path.name))


def test_a_server_killed_in_the_middle_of_training(server, world, impatient):
    world.log_to(server.uri)
    job, told = forked(world.train, 0.2)
    while told() != 2:
        pass
    server.kill()
    while told() != "end":
        pass
    job.join(60)
    assert job.exitcode == 0
    server.start()
    assert sync(world.home) == 0
    world.check(server)


def test_a_server_absent_from_the_start_gets_everything_from_the_results(server, world, capsys):
    absent = f"http://127.0.0.1:{free_port()}"
    world.log_to(absent).train(lambda step: None)
    make_evaluation(world.layout, world.config, "pair-1")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, "the live run and the log of its results say it once each"
    assert all(absent in line and "hermesflow sync" in line for line in lines)
    assert sync(world.home) == 1
    error = capsys.readouterr().err
    assert "Nothing is lost" in error and absent in error and "Traceback" not in error
    world.log_to(server.uri)
    assert sync(world.home) == 0
    run = world.check(server)
    assert run.data.metrics["gap/paper/gap"] == 0.25
    place = world.client.get_experiment(run.info.experiment_id).artifact_location
    assert place.startswith("mlflow-artifacts:"), "files do not go through the server"
    assert {file.path for file in world.client.list_artifacts(run.info.run_id)} == {"captions.json", "preferences.json"}


def test_a_server_that_comes_late_gets_the_steps_it_missed(server, gate, world, impatient, capsys):
    gate.open = False
    world.log_to(gate.uri)
    _, tracked = live(world.home, config=world.config)
    with tracked:
        for step in range(1, STEPS + 1):
            gate.open = step > 3
            tracked.log(row("pair-1", step), step=step)
    client = world.log_to(server.uri).client
    assert curve(client, runs_of(client, world.config.name)["pair-1, seed 0"]) == whole_curve()
    assert ["failed" in line for line in capsys.readouterr().err.splitlines()] == [True, False]


def test_a_server_that_is_away_is_called_once_in_500_steps(gate, world):
    gate.open = False
    world.log_to(gate.uri)
    _, tracked = live(world.home, config=world.config)
    with tracked:
        for step in range(1, 500):
            tracked.log({"loss": 0.0}, step=step)
    assert gate.calls == 1


def test_a_server_that_hangs_in_a_sync_that_is_then_killed(server, gate, world):
    make_results(world.home, world.config)
    world.log_to(gate.uri)
    gate.left = 30  # calls it answers
    job, _ = forked(lambda tell: tell(sync(world.home)))
    assert gate.stuck.wait(60)
    job.kill()
    job.join(60)
    world.log_to(server.uri)
    assert sync(world.home) == 0
    world.check(server)
    world.check(server, "pair-2, seed 0")
    assert len(runs_of(world.client, world.config.name)) == 4


def test_a_host_name_the_server_does_not_allow_is_named_with_the_fix(server, world, capsys):
    world.log_to(f"http://localhost:{server.port}")
    _, tracked = live(world.home, config=world.config)
    with tracked:
        tracked.log({"loss": 1.0}, step=1)
    assert f"--allowed-hosts 'localhost:{server.port}'" in capsys.readouterr().err


def test_a_password_in_the_address_is_not_printed(world, capsys):
    world.log_to(f"http://me:secret@127.0.0.1:{free_port()}")
    _, tracked = live(world.home, config=world.config)
    with tracked:
        tracked.log({"loss": 1.0}, step=1)
    error = capsys.readouterr().err
    assert "127.0.0.1" in error and "secret" not in error
