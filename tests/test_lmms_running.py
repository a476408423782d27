from pathlib import Path

import pytest

from hermesflow.errors import ArtifactError, ConfigError
from hermesflow.lmms.running import BENCHMARKS, TASKS, Evaluation, command, evaluate

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


def test_a_missing_environment_is_told(tmp_path):
    with pytest.raises(ConfigError, match="make lmms"):
        evaluate(EVALUATION, tmp_path / "out", python=tmp_path / "python")


def test_every_task_is_shipped_by_one_of_both():
    own = {path.stem for path in TASKS.glob("*.yaml")}
    named = {task for tasks in BENCHMARKS.values() for task in tasks}
    assert own == {"flickr30k_karpathy"}
    assert own < named
