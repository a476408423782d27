"""The whole DAG for real on tiny sizes: run, nothing to do, DVC's promises, killed and started again."""

import json
import re
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from hermesflow.cli.dvc import FOLDER
from hermesflow.cli.forks import SOCKET
from hermesflow.core.files import read_table, sha256

from .conftest import Clone, make_clone


def digests(clone):
    """Hashes of everything that must be the same after the same seed."""
    kept = [*clone.results.glob("report/**/*"), *clone.results.glob("seed0/*/*/*")]
    kept += [*clone.results.glob("data/*"), *clone.results.glob("images/*/*")]
    return {str(path.relative_to(clone.results)): sha256(path) for path in sorted(kept) if path.is_file()}


def run_stages(output):
    """Stages that DVC says it runs: checkpoint and rule, or the rule alone."""
    lines = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    return {line.removeprefix("workflow/dvc/seed0/").replace("/dvc.yaml:", " ") for line in lines}


def stale(clone):
    """Steps that each engine calls stale, by rule and checkpoint: Snakemake's, and DVC's with all that follows them."""
    dry = clone.snakemake("--dry-run", "--printshellcmds")
    commands = re.findall(r" -m hermesflow (\w+) (.*)", dry)
    rules = {(rule, (re.findall(r"--checkpoint (\S+)", rest) or [None])[0]) for rule, rest in commands}
    clone.run("dvc", "repro", "--quiet", "digests")
    status = json.loads(clone.run("dvc", "status", "--json"))
    stages = {}
    for file in (clone.root / "dvc.yaml", *(clone.root / FOLDER).rglob("dvc.yaml")):
        address = "" if file.parent == clone.root else f"{file.relative_to(clone.root)}:"
        read = yaml.safe_load(file.read_text())["stages"]
        stages |= {address + name: stage for name, stage in read.items()}
    first = following = set(status)
    while following:
        made = {path for name in following for path in (*stages[name]["outs"], *stages[name].get("metrics", ()))}
        following = {name for name, stage in stages.items() if made & set(stage.get("deps", ()))} - set(status)
        status |= dict.fromkeys(following)
    steps = {step for name in status for step in stages[name]["params"][0]["results/tiny/digests.json"]}
    return rules, first, steps


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A clone after one uninterrupted run, the hashes it left, and a copy that has its base model, evaluated."""
    clone = make_clone(tmp_path_factory.mktemp("run") / "clone")
    plain = yaml.safe_load(clone.config.read_text())
    plain["runtime"]["shards"] = 1  # tests/cluster has several
    clone.config.write_text(yaml.safe_dump(plain, sort_keys=False))
    clone.run(sys.executable, "-m", "hermesflow", "dvc", "--config", "config/tiny.yaml")
    (clone.root / "run.log").write_text(clone.run("workflow/run", "--configfile", "config/tiny.yaml"))
    half = Clone(tmp_path_factory.mktemp("half") / "clone")
    shutil.copytree(clone.root, half.root, symlinks=True)
    base = half.results / "seed0" / "base"
    later = [half.results / "report", half.results / ".locks", *half.results.glob("seed0/pair-*")]
    for gone in (*later, *(base / name for name in ("candidates", "scores"))):
        shutil.rmtree(gone)
    return clone, digests(clone), half


@pytest.fixture
def finished(runs):
    """A clone after one uninterrupted run, and the hashes it left."""
    return runs[:2]


def test_the_run_leaves_tables_figures_and_an_answer(finished):
    clone, _ = finished
    columns = ["checkpoint", "protocol", "understanding", "generation", "gap", "delta_gap", "delta_gap_low", "seeds"]
    table = read_table(clone.results / "report" / "tables" / "table4_gap.csv", columns)
    assert {"base", "pair-1", "pair-2"} <= set(table["checkpoint"])
    assert set(table["protocol"]) >= {"paper", "same-judge"}
    assert "Did the gap narrow?" in (clone.results / "report" / "answer.md").read_text()
    assert len(list((clone.results / "report" / "figures").glob("*.png"))) == 6


def test_the_run_said_how_far_it_was_and_what_each_step_took(finished):
    clone, _ = finished
    told = (clone.root / "run.log").read_text()
    lines = re.findall(r"^(\d+) of (\d+) steps, \d+:\d\d so far(.*)$", told, flags=re.MULTILINE)
    assert "Logging error" not in told and len(lines) >= 5
    (_, _, first), (done, total, last) = lines[0], lines[-1]
    assert done == total and last == "" and re.fullmatch(r", no time known yet of \d+ steps", first)
    table = read_table(clone.results / "logs" / "durations.csv", ["output", "rule", "seconds"], numbers=["seconds"])
    assert len(table) == int(total) - 1 and table["output"].is_unique  # all but `all`
    kept = [output for output in table["output"] if "/shards/" not in output]  # which are temporary
    assert all((clone.root / output).exists() for output in kept) and table["seconds"].min() > 0
    assert "so far" not in clone.snakemake("--dry-run", "--forceall")


def test_mlflow_has_the_curves_and_the_report(finished):
    from hermesflow.config.load import load_config
    from hermesflow.tracking.store import Store

    clone, _ = finished
    config = load_config(clone.config)
    client = Store(clone.results.parent).client
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert len(runs) == 4
    named = {run.info.run_name: run for run in runs}
    curve = client.get_metric_history(named["pair-1, seed 0"].info.run_id, "loss")
    assert max(point.step for point in curve) == config.training.steps
    assert named["pair-2, seed 0"].inputs.dataset_inputs and named["pair-2, seed 0"].outputs.model_outputs
    assert named["pair-1, seed 0"].data.params["training.steps"] == str(config.training.steps)
    assert all(run.info.status == "FINISHED" for run in runs)
    assert "gap/paper/gap" in named["base, seed 0"].data.metrics
    assert {f.path for f in client.list_artifacts(named["seed 0"].info.run_id)} >= {"tables", "figures", "answer.md"}


def test_a_second_run_has_nothing_to_do(finished):
    clone, _ = finished
    assert "Nothing to be done" in clone.snakemake("--dry-run")


def test_html_report(finished):
    clone, _ = finished
    clone.snakemake("--report", "results/tiny/report.html")
    text = (clone.results / "report.html").read_text()
    assert "table4_gap" in text
    assert "fig2b_gap" in text


def test_dvc_repro_after_a_run_runs_nothing(finished):
    clone, _ = finished
    assert run_stages(clone.run("dvc", "repro")) == set()


def test_dvc_repro_restores_deleted_results_and_runs_nothing(finished):
    clone, before = finished
    shutil.rmtree(clone.results)
    assert run_stages(clone.run("dvc", "repro")) == set()
    assert digests(clone) == before
    assert "Nothing to be done" in clone.snakemake("--dry-run")


def test_restored_results_are_current_without_snakemakes_memory(finished):
    clone, before = finished
    shutil.rmtree(clone.results)
    shutil.rmtree(clone.root / ".snakemake")
    venv = sys.prefix
    marker = clone.root / "installed"
    marker.touch()
    clone.run("make", "restore", f"VENV={venv}", "CONFIG=config/tiny.yaml", f"INSTALLED={marker}")
    assert digests(clone) == before
    assert "Nothing to be done" in clone.snakemake("--dry-run")


def test_a_part_of_what_dvc_mirrors_is_recorded_and_restored(finished):
    """`make demo` runs a part of the tree that DVC's files are of, in the same results: its report is another."""
    clone, before = finished
    (clone.root / "config" / "part.yaml").write_text("extends: tiny.yaml\nname: tiny\ncheckpoints: {pair-2: null}\n")
    locks = [clone.root / "dvc.lock", *(clone.root / FOLDER).rglob("dvc.lock")]
    saved = {lock: lock.read_bytes() for lock in locks}
    for lock in locks:
        lock.unlink()
    clone.run("workflow/run", "--configfile", "config/part.yaml")
    recorded = {lock for lock in locks if lock.exists()}
    assert {lock.parent.name for lock in recorded} == {clone.root.name, "base", "pair-1"}
    assert "report" not in yaml.safe_load((clone.root / "dvc.lock").read_text())["stages"]
    shutil.rmtree(clone.results)
    shutil.rmtree(clone.root / ".snakemake")
    marker = clone.root / "installed"
    clone.run("make", "restore", f"VENV={sys.prefix}", "CONFIG=config/part.yaml", f"INSTALLED={marker}")
    kept = {name: digest for name, digest in digests(clone).items() if not name.startswith("report")}
    assert kept == {name: before[name] for name in kept} and "seed0/pair-1/model/model.safetensors" in kept
    assert "Nothing to be done" in clone.run("snakemake", "--configfile", "config/part.yaml", "--dry-run")
    for lock, text in saved.items():
        lock.write_bytes(text)
    clone.run("dvc", "checkout", "--force")
    clone.run(sys.executable, "workflow/scripts/restore.py", "config/tiny.yaml")
    assert digests(clone) == before


def test_another_config_starts_from_what_both_make_alike(finished):
    clone, before = finished
    (clone.root / "config" / "other.yaml").write_text(
        "extends: tiny.yaml\nname: other\nscoring: {vqa_method: likelihood}\ncheckpoints: {pair-2: null}\n"
    )
    start = (sys.executable, "workflow/scripts/start_from.py", "config/tiny.yaml", "config/other.yaml")
    other = clone.root / "results" / "other"
    candidates = clone.results / "seed0" / "base" / "candidates" / "images.npy"
    candidates.rename(clone.root / "away.npy")
    out = clone.run(*start, check=False)
    assert "results/tiny/seed0/base/candidates/images.npy: is missing, so config/other.yaml cannot start" in out
    assert "Run `workflow/run --configfile config/tiny.yaml --config seeds=[0]` first." in out and not other.exists()
    (clone.root / "away.npy").rename(candidates)
    assert int(clone.run(*start).split()[0]) > 20
    dry = clone.run("snakemake", "--dry-run", "--printshellcmds", "--configfile", "config/other.yaml")
    steps = re.findall(r" -m hermesflow (\w+) (?:.*--checkpoint (\S+))?", dry)
    scored = {("score", "base"), ("gather_scores", "base"), ("agreement", ""), ("reference", "base")}
    evaluated = {("evaluate", "base"), ("evaluate", "pair-1")}
    assert sorted(steps) == sorted(scored | evaluated | {("prefer", "pair-1"), ("train", "pair-1"), ("report", "")})
    copies = [path for path in other.rglob("*") if path.is_file() and path.suffix != ".log"]
    originals = [clone.results / path.relative_to(other) for path in copies]
    assert [sha256(path) for path in copies] == [sha256(path) for path in originals]
    assert not {path.stat().st_ino for path in copies} & {path.stat().st_ino for path in originals}
    assert digests(clone) == before and "Nothing to be done" in clone.snakemake("--dry-run")
    assert clone.run(*start) == "0 files copied\n"
    out = clone.run(*start[:2], "config/tiny.yaml", "config/micro.yaml", check=False)
    assert "config/micro.yaml: has no step in common with config/tiny.yaml" in out
    pretraining = clone.root / "src" / "hermesflow" / "training" / "pretraining.py"
    text = pretraining.read_text()
    pretraining.write_text(f"{text}\nCHANGED = 1\n")
    out = clone.run(*start, check=False)
    pretraining.write_text(text)
    assert "results/tiny: is not what config/tiny.yaml makes with the code and the values here now" in out


@pytest.mark.long
def test_robustness_trains_what_differs_measures_all_alike_and_goes_on(finished):
    clone, before = finished
    folder = clone.root / "config" / "variants"
    folder.mkdir()
    checkpoints = "checkpoints: {pair-1: null, pair-2: null, beta-1: {parent: base, objective: pair, beta: 1.0}}\n"
    (folder / "beta.yaml").write_text(f"extends: ../tiny.yaml\nname: variant-beta\n{checkpoints}")
    (folder / "guidance.yaml").write_text(
        "extends: ../tiny.yaml\nname: variant-guidance\ncheckpoints: {pair-2: null}\n"
        "sampling: {images: {guidance: 2.0}}\n"
    )
    variants = ("config/variants/beta.yaml", "config/variants/guidance.yaml")
    command = (sys.executable, "workflow/scripts/robustness.py", "config/tiny.yaml", *variants)
    clone.run(*command)
    page = clone.root / "docs" / "results" / "robustness"
    first = {path.name: path.read_bytes() for path in page.iterdir()}
    assert {"README.md", "robustness.csv", "manifest.json"} == first.keys()
    table = read_table(page / "robustness.csv", ["setting", "value", "checkpoint"])
    assert list(table["setting"]) == ["default", "sampling.images.guidance", "training.beta"]
    results = clone.root / "results"
    made = json.loads((results / "variant-guidance/seed0/base/candidates/manifest.json").read_text())
    measured = json.loads((results / "variant-guidance/seed0/pair-1/evaluation/manifest.json").read_text())
    assert made["config"]["sampling"]["images"]["guidance"] == 2.0
    assert measured["config"]["sampling.images"]["guidance"] == 1.0
    assert not (results / "variant-guidance/seed0/base/evaluation").exists() and digests(clone) == before
    out = clone.run(*command)
    assert out.count("Nothing to be done") == 4
    assert {path.name: path.read_bytes() for path in page.iterdir()} == first


def test_what_an_update_brings_reruns_nothing(finished):
    """More than `tests/config/test_digests.py` sees: in the engines themselves."""
    clone, before = finished
    errors = clone.root / "src" / "hermesflow" / "core" / "errors.py"
    errors.write_text(errors.read_text() + "\n\nclass NewestError(HermesflowError):\n    status = 99\n")
    assert "Nothing to be done" in clone.snakemake("--dry-run")
    assert run_stages(clone.run("dvc", "repro")) == {"digests"}
    assert digests(clone) == before


def test_one_line_of_the_loss_makes_training_stale_and_what_follows(finished):
    clone, _ = finished
    losses = clone.root / "src" / "hermesflow" / "training" / "losses.py"
    text = losses.read_text()
    losses.write_text(text.replace("F.logsigmoid(", "F.logsigmoid(1.0 * "))
    assert losses.read_text() != text
    snakemake, first, dvc = stale(clone)
    assert first == {f"workflow/dvc/seed0/{name}/dvc.yaml:train" for name in ("pair-1", "pair-2")}
    sampling = ("sample", "gather_candidates", "score", "gather_scores", "evaluate", "train")
    second = ("prefer", "train", "evaluate")
    steps = {*((rule, "pair-1") for rule in (*sampling, "reference")), *((rule, "pair-2") for rule in second)}
    steps |= {("report", None)}
    assert snakemake == steps
    assert dvc == {"-".join(filter(None, step)) for step in steps}
    losses.write_text(text)
    assert run_stages(clone.run("dvc", "repro")) == set()  # `digests` is known from before
    assert "Nothing to be done" in clone.snakemake("--dry-run")


def test_one_checkpoints_beta_makes_its_own_steps_stale_alone(finished):
    clone, _ = finished
    plain = yaml.safe_load(clone.config.read_text())
    plain["checkpoints"]["pair-2"]["beta"] = 0.7
    clone.config.write_text(yaml.safe_dump(plain, sort_keys=False))
    snakemake, _, dvc = stale(clone)
    steps = {("train", "pair-2"), ("evaluate", "pair-2"), ("report", None)}
    assert snakemake == steps
    assert dvc == {"-".join(filter(None, step)) for step in steps}


def kill_tree(top):
    """SIGKILL a process and all below it; each is stopped first, so that none starts another meanwhile."""
    top.suspend()
    tree = [top]
    for process in tree:
        for child in process.children():
            child.suspend()
            tree.append(child)
    for process in tree:
        process.kill()


def kill_when(clone, path, seconds, command, server=None):
    """Start a command, wait until `path` (a pattern in results) is there, and kill every process of it at once.

    Where its steps are forked from a server of the test, these are killed too, and the server lives on.
    """
    job = clone.start(*command)
    deadline = time.monotonic() + seconds
    try:
        while not list(clone.results.glob(path)):
            assert job.poll() is None, (clone.root / "out.log").read_text()[-4000:]
            assert time.monotonic() < deadline, f"{path} never came"
            time.sleep(0.005)
    finally:
        tree = []
        if job.poll() is None:
            tree = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
        if server:
            tree += psutil.Process(server.pid).children(recursive=True)
        for process in tree:
            process.suspend()
        for process in tree:
            process.kill()
        job.wait()


@pytest.fixture
def forks(runs):
    """A server for the steps of several runs in the copy that has its base model."""
    clone = runs[2]
    path = ".snakemake/of-the-test.sock"
    command = [sys.executable, "-m", "hermesflow", "forks", path]
    server = subprocess.Popen(command, cwd=clone.root, env=clone.env, stdin=subprocess.PIPE)
    yield server, ("env", f"{SOCKET}={path}")
    server.stdin.close()
    assert server.wait(60) == 0


@pytest.mark.long
def test_killed_in_sampling_scoring_and_training_it_ends_the_same(runs, forks):
    """As far as the first trained checkpoint; `make test-kills` kills a whole run at random moments.

    The first run is killed with the server that it starts, the others share one: a server imports for seconds.
    """
    server, sharing = forks
    _, before, clone = runs
    model = clone.results / "seed0" / "pair-1" / "model" / "model.safetensors"
    command = ("workflow/run", "--configfile", "config/tiny.yaml", "--", str(model.relative_to(clone.root)))
    kill_when(clone, ".locks/sample-*", 300, command)
    assert not list(clone.results.glob("seed0/base/candidates/captions.parquet"))
    kill_when(clone, ".locks/score-*", 300, (*sharing, *command), server)
    assert not list(clone.results.glob("seed0/base/scores/captions.parquet"))
    kill_when(clone, "seed0/pair-1/state/step-0000001?", 300, (*sharing, *command), server)
    assert not model.exists()
    clone.run(*sharing, *command)
    assert "resuming after step" in (clone.results / "logs" / "train-seed0-pair-1.log").read_text()
    after = digests(clone)
    assert {"seed0/pair-1/model/model.safetensors", "seed0/base/scores/captions.parquet"} <= after.keys()
    assert after == {name: before[name] for name in after}
