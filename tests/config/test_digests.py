"""Digests of code: what counts, and what a user's update must not run again, on copies of the package."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hermesflow.cli.main import STAGES
from hermesflow.config import digests
from hermesflow.config.benchmarks import BENCHMARKS
from hermesflow.config.benchmarks import PACKAGE as PLUG_INS
from hermesflow.config.load import load_config
from hermesflow.config.sections import Stopping
from hermesflow.core import provenance

REPOSITORY = Path(__file__).parents[2]
SHOWO = REPOSITORY / "config" / "showo.yaml"


def modules(stage, benchmark=None):
    paths = dict(digests.modules_behind(stage, load_config(SHOWO), benchmark)).values()
    return {path.relative_to(provenance.ROOT).as_posix() for path in paths}


def test_modules_follow_imports_but_not_to_what_computes_nothing():
    train = modules("train")
    assert {"stages/train.py", "training/pair_dpo.py", "training/losses.py", "training/logps.py"} <= train
    assert {"config/tree.py", "core/files.py", "models/showo/model.py"} <= train
    left_out = ("cli/", "tracking/", "core/errors.py", "core/progress.py")
    assert not [name for name in train if name.startswith(left_out)]
    assert [name for name in train if name.startswith("config/")] == ["config/tree.py"]
    assert not train & {"report/tables.py", "evaluation/worlds/gap.py"}


def test_a_stage_runs_the_parts_of_the_backbone_that_it_asks_for():
    parts = ("model.py", "codec.py", "codec_training.py")
    asked = {
        "model.py": ("base", "sample", "reference", "train", "draw"),
        "codec.py": ("encode", "judge"),
        "": ("data", "prefer", "clip", "gather_candidates", "gather_scores"),
        "model.py codec.py": ("score", "agreement", "evaluate", "understand", "report"),
    }
    for names, stages in asked.items():
        for stage in stages:
            assert [name for name in parts if f"models/showo/{name}" in modules(stage)] == names.split(), stage
    assert {"models/showo/codec_training.py", "models/showo/magvit.py"} <= modules("tokenizer")
    assert "models/showo/model.py" not in modules("tokenizer")
    for name in set().union(*map(modules, STAGES)):
        text = (provenance.ROOT / name).read_text()
        assert "models import backbone" not in text, f"{name}: import functions by name, digests follow them"


def test_a_backbone_of_the_user_counts_too():
    config = load_config(SHOWO)
    model = dataclasses.replace(config.language_model, family="tests.support.tiny_backbone")
    other = dataclasses.replace(config, language_model=model)
    names = dict(digests.modules_behind("train", other))
    assert "tests.support.tiny_backbone" in names and "hermesflow.models.showo.model" not in names
    assert "tests.support.tiny_backbone" not in dict(digests.modules_behind("prefer", other))


def test_what_stops_a_training_is_behind_that_training_alone():
    config = load_config(SHOWO.with_name("pictures.yaml"))
    own = dataclasses.replace(config.checkpoints["gen-1"], stopping=Stopping(every=2, patience=1, prompts=7))
    other = dataclasses.replace(config, checkpoints={**config.checkpoints, "gen-1": own})
    judge, figure = "hermesflow.data.pictures.judge", "hermesflow.evaluation.worlds.stopping"
    for name in ("gen-1", "pair-1"):
        behind = dict(digests.modules_behind("train", other, checkpoint=name))
        assert (judge in behind, figure in behind) == ((True, True) if name == "gen-1" else (False, False))
    before, after = digests.step_digests(config), digests.step_digests(other)
    assert {step for step in after if after[step] != before[step]} == {"train-gen-1", "report"}


def test_the_loss_is_behind_training_alone():
    assert [stage for stage in STAGES if "training/losses.py" in modules(stage)] == ["train"]


def test_modules_that_another_interpreter_runs_count_too():
    lmms = {f"evaluation/lmms/{name}.py" for name in ("plugin", "answering", "summary")}
    assert {*lmms, "models/showo/model.py", "selfplay/sampling.py"} <= modules("understand", "pope")
    assert "evaluation/lmms/plugin.py" not in modules("grade", "coco")


def test_grading_is_no_reason_to_generate_or_to_report_again():
    grading = {"evaluation/grading.py", "evaluation/graders/geneval_detector.py", "evaluation/benchmarks/geneval.py"}
    assert grading <= modules("grade", "geneval")
    for stage in ("draw", "gather_drawn"):
        assert grading & modules(stage, "geneval") == {"evaluation/benchmarks/geneval.py"}
    assert grading & modules("report") == {"evaluation/benchmarks/geneval.py"}


def test_the_report_has_columns_of_the_paper_s_benchmarks_though_the_config_has_none():
    smoke = dict(digests.modules_behind("report", load_config(SHOWO.with_name("smoke.yaml"))))
    assert "hermesflow.evaluation.benchmarks.coco" in smoke
    assert not [name for name, one in BENCHMARKS.items() if not one.paper and f"{PLUG_INS}.{name}" in smoke]


def test_steps_are_those_of_the_command_line():
    """By what stages take there."""
    assert {stage for stage in STAGES if "checkpoint" not in STAGES[stage].takes} == set(digests.ONCE)
    assert {stage for stage in STAGES if "benchmark" in STAGES[stage].takes} == set(digests.OF_BENCHMARKS)
    steps = digests.step_digests(load_config(SHOWO))
    assert {"data", "train-pair-1", "grade-base-coco", "understand-und-1-pope"} <= steps.keys()
    assert not steps.keys() & {"train-base", "train", "grade-base-pope", "grade-base", "data-base"}


def test_the_command_prints_them(capsys):
    from hermesflow.cli import main

    main.main(["digests", "--config", str(SHOWO)])
    printed = json.loads(capsys.readouterr().out)
    assert printed == digests.code_digests(load_config(SHOWO))
    assert set(STAGES) <= printed.keys() and "grade-coco" in printed


def insert(path, before, text):
    old = path.read_text()
    assert before in old
    path.write_text(old.replace(before, text + before, 1))


def optional_key(root):
    insert(root / "config" / "benchmarks.py", "    cache: str | None = None\n", "    extra: int | None = None\n")


def benchmark(root):
    folder = root / "evaluation" / "benchmarks"
    text = (folder / "dpg.py").read_text()
    for old in ("    paper=True,\n", "dpg", "Dpg"):
        assert old in text
        text = text.replace(old, "newest" if old.isalpha() else "")
    (folder / "newest.py").write_text(text)


def backbone(root):
    folder = root / "models" / "newest"
    shutil.copytree(root / "models" / "showo", folder)
    for path in folder.glob("*.py"):
        path.write_text(path.read_text().replace("hermesflow.models.showo", "hermesflow.models.newest"))


def error(root):
    path = root / "core" / "errors.py"
    path.write_text(path.read_text() + "\n\nclass NewestError(HermesflowError):\n    status = 99\n")


def help_text(root):
    path = root / "cli" / "main.py"
    insert(path, '"homologous pairs of every split"', '"all of the "')


def comment(root):
    path = root / "training" / "losses.py"
    path.write_text(path.read_text().replace('"""', '"""Another word. ', 1) + "\n# and another\n")


def loss(root):
    insert(root / "training" / "losses.py", "F.logsigmoid(beta * delta)", "1.0 * ")


@pytest.fixture(scope="module")
def before():
    """The digests of all steps as the package is."""
    return digests.step_digests(load_config(SHOWO))


@pytest.fixture
def steps_after(tmp_path, monkeypatch):
    """The digests of all steps after a change to a copy of the package."""
    folder = tmp_path / "hermesflow"
    shutil.copytree(provenance.ROOT, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def after(change):
        change(folder)
        if change in (optional_key, benchmark):  # another value or plug-in for the program itself
            written = tmp_path / "steps.json"
            command = [sys.executable, "-m", "hermesflow", "digests", "--config", str(SHOWO), "--steps", str(written)]
            subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
            return json.loads(written.read_text())
        monkeypatch.setattr(provenance, "ROOT", folder)
        forget()
        return digests.step_digests(load_config(SHOWO))

    yield after
    forget()


def forget():
    """What was read of the package before."""
    for function in vars(provenance).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.mark.parametrize("change", [optional_key, benchmark, backbone, error, help_text, comment])
def test_what_an_update_brings_makes_no_step_stale(before, steps_after, change):
    assert steps_after(change) == before


def test_one_line_of_the_loss_makes_training_stale_and_nothing_else(before, steps_after):
    after = steps_after(loss)
    assert {step for step in before if before[step] != after[step]} == {
        f"train-{checkpoint}" for checkpoint in load_config(SHOWO).checkpoints
    }


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A tiny package in place of this one, and the digest of its step."""
    for name, text in {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/step.py": "from hermesflow.registry import part\n\nfrom hermesflow import deep\n\ndeep.x()\n",
        "deep.py": 'def x():\n    """Doc."""\n    from hermesflow.words import named\n\n    return 1  # one\n',
        "words/__init__.py": "",
        "words/named.py": "from hermesflow import aside\n",
        "words/kept.py": "z = 1\n",
        "aside.py": "y = 1\n",
        "registry.py": "def part(): ...\ndef other(): ...\n",
        "parts/__init__.py": "",
        "parts/one.py": "from .two import v\n",
        "parts/two.py": "v = 1\n",
        "parts/three.py": "u = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)

    def digest():
        forget()
        roots = ("hermesflow.stages.step", "hermesflow.nowhere")
        left_out, kept = ("hermesflow.words",), ("hermesflow.words.kept",)
        chosen = (("part", "one"), ("other", "three"))
        leads = tuple((f"hermesflow.registry.{name}", f"hermesflow.parts.{module}") for name, module in chosen)
        return provenance.digest_of_code(provenance.modules_of(roots, left_out, kept, leads))

    yield tmp_path, digest
    forget()


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("deep.py", "return 1", "return 2", True),
        ("deep.py", "# one", "# uno", False),
        ("deep.py", '    """Doc."""', '    """Other words."""', False),
        ("aside.py", "y = 1", "y = 2", False),
        ("words/named.py", "aside", "deep", False),
        ("words/kept.py", "z = 1", "z = 2", False),
        ("deep.py", "import named", "import kept", True),
        ("parts/two.py", "v = 1", "v = 2", True),
        ("parts/three.py", "u = 1", "u = 2", False),
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


def test_a_module_that_is_left_out_may_be_kept(package):
    root, digest = package
    (root / "deep.py").write_text("from hermesflow.words import kept\n")
    before = digest()
    (root / "words" / "kept.py").write_text("z = 2\n")
    assert digest() != before
