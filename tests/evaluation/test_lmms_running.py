import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.evaluation.lmms.running import PYTHON, TASKS, Evaluation, command, evaluate
from hermesflow.evaluation.registry import lmms_benchmarks

EVALUATION = Evaluation(model=Path("m"), tokenizer=Path("t"), tasks=["gqa", "mme"], batch_size=8)


def script(folder, text):
    """An interpreter that runs `text` instead of lmms-eval; $out is the folder of results."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nfor x in "$@"; do [ "$last" = --output_path ] && out=$x; last=$x; done\n{text}\n')
    path.chmod(0o755)
    return path


def test_the_command_line_names_model_and_tasks():
    found = command(EVALUATION, Path("out"), python=Path("p"))
    assert found[:3] == ["p", "-m", "lmms_eval"]
    options = dict(zip(found[3:-1:2], found[4::2], strict=False))
    assert options["--tasks"] == "gqa,mme"
    assert options["--model_args"] == "pretrained=m,tokenizer=t,images=out/images.parquet,precision=no"
    assert options["--batch_size"] == "8"
    assert options["--process_docs_parallel"] == "1"
    assert found[-1] == "--log_samples"


def test_the_command_of_the_docs_is_the_one_that_is_run():
    text = (Path(__file__).parents[2] / "docs" / "lmms-eval.md").read_text()
    (said,) = [block for block in text.split("```bash\n")[1:] if "-m lmms_eval" in block]
    results = Path("results/showo")
    evaluation = Evaluation(
        model=results / "seed0/base/model",
        tokenizer=results / "tokenizer",
        tasks=["gqa"],
        device="cuda",
        precision="bf16",
        batch_size=64,
        include=Path("src/hermesflow/evaluation/lmms/tasks"),
    )
    python, *own = shlex.split(said.partition("```")[0].replace("\\\n", " "))
    assert Path(python) == PYTHON
    assert sorted(own) == sorted(command(evaluation, Path("out"))[1:])
    assert Path(__file__).parents[2] / evaluation.include == TASKS


def test_a_comma_in_a_path_is_refused():
    with pytest.raises(ConfigError, match="Rename the folder"):
        command(Evaluation(model=Path("a,b"), tokenizer=Path("t"), tasks=["gqa"]), Path("out"))


def test_results_appear_whole(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    evaluate(EVALUATION, out, python=script(tmp_path, 'mkdir $out/m; touch $out/m/x_results.json; echo "done"'))
    assert sorted(path.name for path in out.iterdir()) == ["lmms_eval.log", "m"]
    assert (out / "lmms_eval.log").read_text() == "done\n"


@pytest.mark.parametrize("text", ["echo broken; exit 1", "echo broken; exit 0", "mkdir $out/m; echo broken; exit 3"])
def test_an_error_is_told_and_leaves_the_log_alone(tmp_path, text):
    with pytest.raises(ArtifactError, match="broken"):
        evaluate(EVALUATION, tmp_path / "out", python=script(tmp_path, text))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.log", "python"]


def test_progress_is_shown_while_it_runs_and_all_is_in_the_log(tmp_path, capfd):
    text = "echo lmms-eval: answer: 1/2 questions; echo other; mkdir $out/m; touch $out/m/x_results.json"
    evaluate(EVALUATION, tmp_path / "out", python=script(tmp_path, text))
    assert capfd.readouterr().err == "lmms-eval: answer: 1/2 questions\n"
    assert (tmp_path / "out" / "lmms_eval.log").read_text() == "lmms-eval: answer: 1/2 questions\nother\n"


def test_what_a_killed_run_left_goes(tmp_path):
    (tmp_path / ".out.999999" / "m").mkdir(parents=True)
    (tmp_path / ".other.999999").mkdir()
    evaluate(EVALUATION, tmp_path / "out", python=script(tmp_path, "mkdir $out/m; touch $out/m/x_results.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.999999", "out", "python"]


def test_lmms_eval_ends_when_the_stage_is_interrupted(tmp_path, monkeypatch):
    """What is printed while the stage stops is the interruption; the process would sleep for a minute."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupted)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        evaluate(EVALUATION, tmp_path / "out", python=script(tmp_path, "echo lmms-eval: 1/2; exec sleep 60"))
    assert time.monotonic() - start < 30
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tasks", [["flickr30k_test_local"], ["gqa", "flickr30k_karpathy"]])
def test_a_missing_java_is_told_before_the_first_caption(tmp_path, tasks):
    python = script(tmp_path, "touch $out/started")
    with pytest.raises(ConfigError, match=r"no `java` in PATH=/nowhere\. Install a Java runtime .*flickr30k out of"):
        evaluate(replace(EVALUATION, tasks=tasks), tmp_path / "out", python=python, environment={"PATH": "/nowhere"})
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_a_java_that_does_not_start_is_told(tmp_path):
    (tmp_path / "java").write_text("#!/bin/sh\necho no runtime present >&2; exit 1\n")
    (tmp_path / "java").chmod(0o755)
    own = replace(EVALUATION, tasks=["flickr30k_test"])
    with pytest.raises(ConfigError, match=r"java does not start: no runtime present\. Install"):
        evaluate(own, tmp_path / "out", python=script(tmp_path, ""), environment={"PATH": f"{tmp_path}:/usr/bin:/bin"})


def test_other_tasks_need_no_java(tmp_path):
    python = script(tmp_path, "/bin/mkdir $out/m; : > $out/m/x_results.json")
    evaluate(EVALUATION, tmp_path / "out", python=python, environment={"PATH": "/nowhere"})
    assert (tmp_path / "out").is_dir()


def test_a_missing_environment_is_told(tmp_path):
    with pytest.raises(ConfigError, match="make lmms"):
        evaluate(EVALUATION, tmp_path / "out", python=tmp_path / "python")


def test_every_task_is_shipped_by_one_of_both():
    own = {path.stem for path in TASKS.glob("*.yaml")}
    named = {task for one in lmms_benchmarks() for task in one.tasks}
    assert own == {"flickr30k_karpathy"}
    assert own < named
