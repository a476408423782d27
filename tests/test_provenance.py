import ast
import dataclasses
from pathlib import Path

import pytest

from hermesflow.cli.main import STAGES
from hermesflow.config import provenance
from hermesflow.config.benchmarks import COLUMNS, Benchmarks, Gap, Understanding
from hermesflow.config.experiment import Config, load_config
from hermesflow.config.judges import LocalVlm, Pace, Prices

SHOWO = Path(__file__).parents[1] / "config" / "showo.yaml"
SMOKE = load_config(SHOWO.with_name("smoke.yaml"))
PROPERTIES = {
    "num_image_tokens": {"data.image_size", "image_tokenizer"},
    "codebook_size": {"image_tokenizer"},
    "training_of": {"training", "checkpoint"},
    "iteration": {"checkpoint"},
    "checkpoints": {"checkpoint"},
    "sampled_checkpoints": {"checkpoint"},
    "benchmarks": {"benchmark"},
}
FREE = {"runtime", "name", "seeds", "reference_of"}
"""How a step runs, and where it and its inputs lie: no reason to run it again."""


def chains(path):
    """Dotted keys read off parameters that are annotated as Config."""
    found = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        parameters = [*function.args.args, *function.args.kwonlyargs]
        names = {p.arg for p in parameters if p.annotation and ast.unparse(p.annotation) == "Config"}
        for node in ast.walk(function):
            parts = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            if parts and isinstance(node, ast.Name) and node.id in names:
                found.add(".".join(reversed(parts)))
    return {c for c in found if not any(o.startswith(c + ".") for o in found)}


def covers(declared, key):
    own = {d.replace("checkpoints", "checkpoint") for d in declared}
    return any(key == d or key.startswith(d + ".") or d.startswith(key + ".") for d in own)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_no_key_it_does_not_declare(stage):
    missing = []
    for chain in chains(provenance.ROOT / "stages" / f"{stage}.py"):
        head = chain.partition(".")[0]
        for key in PROPERTIES.get(head, {chain}):
            if head not in FREE and not covers(provenance.READS[stage], key):
                missing.append(key)
    assert not missing, f"add to provenance.READS[{stage!r}]"


@pytest.mark.parametrize("stage", STAGES)
def test_declared_keys_are_keys_of_the_config(stage):
    values = provenance.params_of(SMOKE, stage, "pair-1")
    assert list(values) == [key for key in provenance.reads(stage, "pair-1") if key != "benchmarks"]


def test_one_checkpoints_settings_touch_no_other_step():
    changed = dataclasses.replace(SMOKE.checkpoints["pair-2"], beta=0.9)
    other = dataclasses.replace(SMOKE, checkpoints={**SMOKE.checkpoints, "pair-2": changed})
    touched = [
        (stage, checkpoint)
        for stage in STAGES
        for checkpoint in SMOKE.checkpoints
        if "checkpoint" in STAGES[stage].takes
        and provenance.params_of(SMOKE, stage, checkpoint) != provenance.params_of(other, stage, checkpoint)
    ]
    assert touched == [("train", "pair-2")]


def test_how_it_runs_is_no_reason_to_run_again():
    faster = dataclasses.replace(SMOKE.runtime, shards=7, train_processes=2, device="cuda")
    other = dataclasses.replace(SMOKE, runtime=faster)
    assert isinstance(other, Config)
    for stage in STAGES:
        assert provenance.params_of(SMOKE, stage, "pair-1") == provenance.params_of(other, stage, "pair-1")


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"pace": Pace(requests_per_minute=1, concurrency=1)}, False),
        ({"cache": "elsewhere", "key_variable": "KEY", "max_cost": 1.0}, False),
        ({"model": "gpt-4o-mini"}, True),
        ({"base_url": "https://host/v1"}, True),
        ({"seed": 1}, True),
        ({"prices": Prices(input=0, output=0, image_tokens=0)}, True),  # the table says what it cost
    ],
)
def test_how_a_judge_is_asked_is_no_reason_to_grade_again(change, counts):
    config = load_config(SHOWO)
    assert config.benchmarks
    judge = dataclasses.replace(config.benchmarks.gap.judge, **change)
    other = dataclasses.replace(config, benchmarks=dataclasses.replace(config.benchmarks, gap=Gap(judge=judge)))
    both = [provenance.params_of(one, "grade", "pair-1", "gap") for one in (config, other)]
    assert (both[0] != both[1]) == counts


def test_a_local_judge_is_known_by_its_model():
    config = load_config(SHOWO)
    params = []
    for model in ("one", "other"):
        judge = LocalVlm(kind="local", model=model, cache=model)
        own = dataclasses.replace(config, benchmarks=dataclasses.replace(config.benchmarks, gap=Gap(judge=judge)))
        params.append(provenance.params_of(own, "grade", "pair-1", "gap"))
    differ = [key for key, value in params[0].items() if value != params[1][key]]
    assert differ == ["benchmarks.gap.judge.model"]


def names_of(stage):
    return {path.relative_to(provenance.ROOT).as_posix() for path in provenance.modules_of(stage)}


def test_modules_follow_imports_but_not_the_tracking():
    names = names_of("train")
    assert {"stages/train.py", "training/losses.py", "training/logps.py", "config/experiment.py"} <= names
    assert {"models/showo/model.py", "models/showo/masking.py"} <= names  # imported by the name in the config
    assert not names & {"tracking/runs.py", "cli/main.py", "report/tables.py", "evaluation/worlds/gap.py"}
    assert "losses.py" not in {path.name for path in provenance.modules_of("sample")}


def test_modules_that_another_interpreter_runs_count_too():
    names = names_of("understand")
    assert {f"evaluation/lmms/{name}.py" for name in ("plugin", "answering", "summary")} <= names
    assert {"models/showo/model.py", "models/showo/codec.py", "selfplay/sampling.py"} <= names
    assert "evaluation/lmms/plugin.py" not in names_of("grade")


def test_a_setting_of_one_column_touches_no_other():
    own = Understanding(batch_size=1)
    config = dataclasses.replace(SMOKE, benchmarks=Benchmarks(understanding=own))

    def touched(**changes):
        benchmarks = Benchmarks(understanding=dataclasses.replace(own, **changes))
        other = dataclasses.replace(config, benchmarks=benchmarks)
        values = [(c, *(provenance.params_of(o, "understand", "base", c) for o in (config, other))) for c in COLUMNS]
        return [column for column, before, after in values if before != after]

    assert touched(vqav2_submission=False) == ["vqav2"]
    assert touched(karpathy="splits.json") == ["flickr30k"]
    assert touched(tasks="folder") == list(COLUMNS)
    assert touched(batch_size=9) == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of a tiny package in place of this one."""
    (tmp_path / "stages").mkdir()
    for name, text in {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/step.py": "def run():\n    from hermesflow import deep\n    return deep.x()\n",
        "deep.py": '"""Doc."""\n\n\ndef x():\n    """Doc."""\n    return 1  # one\n',
        "aside.py": "y = 1\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)

    def digest():
        for function in (provenance.modules_of, provenance.imports_of, provenance._code):
            function.cache_clear()
        return provenance.code_of("step")

    yield tmp_path, digest
    digest()
    monkeypatch.undo()
    for function in (provenance.modules_of, provenance.imports_of, provenance._code):
        function.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("deep.py", "return 1", "return 2", True),
        ("deep.py", "# one", "# uno", False),
        ("deep.py", '    """Doc."""', '    """Other words."""', False),
        ("aside.py", "y = 1", "y = 2", False),
        ("stages/step.py", "deep.x()", "-deep.x()", True),
    ],
)
def test_code_digest_changes_with_code_alone(package, file, old, new, counts):
    root, digest = package
    before = digest()
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))
    assert (digest() != before) == counts
