import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hermesflow.cli import main
from hermesflow.core import processor
from hermesflow.core.errors import ArtifactError

SMOKE = str(Path(__file__).parents[2] / "config" / "smoke.yaml")


@pytest.fixture
def stage(monkeypatch):
    """Replace every stage by one that notes what it was called with."""
    calls = []

    def run(config, layout, **options):
        calls.append((config.name, layout.root, options))

    import_module = main.importlib.import_module

    def replaced(name, *package, **options):
        return SimpleNamespace(run=run) if ".stages." in name else import_module(name, *package, **options)

    monkeypatch.setattr(main.importlib, "import_module", replaced)
    return calls


def test_a_stage_gets_config_layout_and_its_own_options(stage, tmp_path):
    arguments = ["sample", "--config", SMOKE, "--results", str(tmp_path), "--seed", "3", "--checkpoint", "pair-1"]
    assert main.main([*arguments, "--shard", "0", "--shards", "2"]) == 0
    expected = {"seed": 3, "checkpoint": "pair-1", "shard": 0, "shards": 2}
    assert stage == [("smoke", tmp_path / "smoke", expected)]


@pytest.mark.parametrize("kernel", ["blas", "onednn"])
def test_a_config_chooses_the_library_of_products(stage, tmp_path, kernel):
    config = tmp_path / "own.yaml"
    changes = {"extends": SMOKE, "name": "own", "runtime": {"matrix_kernel": kernel}}
    config.write_text(yaml.safe_dump(changes))
    try:
        assert main.main(["data", "--config", str(config), "--results", str(tmp_path)]) == 0
        assert processor.matrix_kernel() == kernel
    finally:
        processor.use_matrix_kernel(None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config", SMOKE],
        ["train", "--config", SMOKE, "--seed", "0"],
        ["sample", "--config", SMOKE, "--seed", "0", "--checkpoint", "base", "--shard", "0", "--shards", "0"],
        ["train", "--config", SMOKE, "--seed", "-1", "--checkpoint", "pair-1"],
        ["data", "--config", SMOKE, "--seed", "0"],
        ["no-such-stage"],
        [],
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(stage, arguments):
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    assert caught.value.code == 2
    assert stage == []


def test_an_unknown_checkpoint_is_named_with_the_known_ones(stage, capsys, tmp_path):
    arguments = ["train", "--config", SMOKE, "--results", str(tmp_path), "--seed", "0", "--checkpoint", "pair-9"]
    assert main.main(arguments) == 1
    told = capsys.readouterr().err
    assert "pair-9" in told
    assert "pair-1" in told
    assert stage == []


def test_a_user_error_is_one_paragraph_without_traceback(monkeypatch, capsys, tmp_path):
    def run(config, layout):
        raise ArtifactError("results/x.parquet: broken. Delete it.")

    import_module = main.importlib.import_module

    def replaced(name, *package, **options):
        return SimpleNamespace(run=run) if ".stages." in name else import_module(name, *package, **options)

    monkeypatch.setattr(main.importlib, "import_module", replaced)
    assert main.main(["data", "--config", SMOKE, "--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "hermesflow data: results/x.parquet: broken. Delete it.\n"


def test_other_errors_keep_their_traceback(monkeypatch, tmp_path):
    def run(config, layout):
        raise KeyError("bug")

    import_module = main.importlib.import_module

    def replaced(name, *package, **options):
        return SimpleNamespace(run=run) if ".stages." in name else import_module(name, *package, **options)

    monkeypatch.setattr(main.importlib, "import_module", replaced)
    with pytest.raises(KeyError):
        main.main(["data", "--config", SMOKE, "--results", str(tmp_path)])


def test_an_unknown_config_key_ends_the_command(tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(Path(SMOKE).read_text() + "colour: red\n")
    command = [sys.executable, "-m", "hermesflow", "data", "--config", str(file), "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "wrong.yaml" in done.stderr
    assert "colour" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "smoke" / "data").exists()


def test_threads_reach_the_libraries(stage, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    main.main(["data", "--config", SMOKE, "--results", str(tmp_path), "--threads", "2"])
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_a_second_process_waits_for_the_first(tmp_path):
    path = tmp_path / "step.lock"
    with main._alone(path):
        code = (
            "import pathlib, sys; from hermesflow.cli.main import _alone\n"
            "with _alone(pathlib.Path(sys.argv[1])): print('done')"
        )
        waiting = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=-1, stderr=-1, text=True)
        assert "waiting for another process" in waiting.stderr.readline()
        time.sleep(0.1)
        assert waiting.poll() is None
    assert waiting.communicate(timeout=60)[0] == "done\n"


def test_the_lock_goes_with_its_process(tmp_path):
    with main._alone(tmp_path / "a.lock"):
        pass
    with (tmp_path / "a.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
