"""The seam of benchmarks: a module is all that one needs, and nothing outside it names it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hermesflow.config import reads
from hermesflow.config.benchmarks import BENCHMARKS, PACKAGE
from hermesflow.config.digests import code_digests, step_digests
from hermesflow.config.load import load_config
from hermesflow.core import provenance, registry
from hermesflow.evaluation.benchmark import ImageBenchmark
from hermesflow.report.columns import columns_of
from tests.support.imports import imports_of

ROOT = Path(__file__).parents[2]
EXTRAS = [name for name, one in BENCHMARKS.items() if not one.paper]


def example():
    """The module that docs/benchmarks.md walks through."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    return text.partition("## Adding a benchmark")[2].partition("```python\n")[2].partition("```")[0]


def test_every_module_is_the_benchmark_of_its_name():
    assert set(BENCHMARKS) == set(registry.names(PACKAGE))
    orders = [one.order for one in BENCHMARKS.values()]
    assert orders == sorted(orders)


def test_a_module_that_declares_nothing_is_named(tmp_path, monkeypatch):
    (tmp_path / "empty_plugins").mkdir()
    (tmp_path / "empty_plugins" / "nothing.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.names("empty_plugins") == ("nothing",)
    with pytest.raises(ImportError, match=r"nothing\.py: every module of empty_plugins declares BENCHMARK"):
        registry.load("empty_plugins", "nothing", "BENCHMARK")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_keys_that_a_benchmark_names_are_keys_of_its_section(name):
    one = BENCHMARKS[name]
    if isinstance(one, ImageBenchmark):
        keys = {field.name for field in one.section.__dataclass_fields__.values()}
        named = (*one.prompt_files, *one.grading_files, *one.models, *one.keys)
        assert {key.partition(".")[0] for key in named} <= keys
    for key in one.config_keys:
        assert reads.reads("grade", "base", name).count(key) == 1


def test_columns_of_a_table_have_names_of_their_own():
    for table in {table for one in BENCHMARKS.values() for table in one.columns}:
        columns = columns_of(table, tuple(BENCHMARKS.values()), real=True)
        assert len({column.key for column in columns}) == len({column.title for column in columns}) == len(columns)


def test_no_other_package_imports_a_benchmark():
    """But for the tools of two benchmarks, which lie among the graders; stages find benchmarks by name."""
    for path in provenance.ROOT.rglob("*.py"):
        module = ".".join(("hermesflow", *path.relative_to(provenance.ROOT).with_suffix("").parts))
        if not module.startswith("hermesflow.evaluation."):
            assert not [name for name in imports_of(module) if name.startswith(f"{PACKAGE}.")], module


@pytest.mark.parametrize("name", EXTRAS)
def test_a_benchmark_beside_the_paper_is_named_in_its_module_alone(name):
    files = [*provenance.ROOT.rglob("*.py"), *(ROOT / "workflow").rglob("*.smk"), *(ROOT / "workflow").rglob("*.rst")]
    assert [path.stem for path in files if name in path.read_text()] == [name]


PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from tests.support.benchmark_world import draw_all, make_world
from hermesflow.budget.plan import places
from hermesflow.cli.dvc import check_benchmarks
from hermesflow.config import digests, reads
from hermesflow.config.experiment import config_schema
from hermesflow.config.benchmarks import BENCHMARKS, Benchmarks
from hermesflow.config.load import load_config
from hermesflow.core.files import write_table, write_weights
from hermesflow.evaluation.bootstrap import summarise
from hermesflow.evaluation.evaluated import UNIT_COLUMNS
from hermesflow.report.facts import benchmark_lines
from hermesflow.report.formatting import to_markdown
from hermesflow.report.tables import all_tables
from hermesflow.stages import grade
from hermesflow.stages.report import benchmark_folders
from tests.support.report_world import PAPER_TABLES

folder, others = Path(sys.argv[1]), {path: load_config(path) for path in sys.argv[2:]}
lines = [{"prompt": f"a {color} square", "color": color} for color in ("red", "green", "blue")]
(folder / "hues.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
config, layout = make_world(folder)
section = {"prompts": str(folder / "hues.jsonl")}
config = replace(config, benchmarks=Benchmarks(hues=BENCHMARKS["hues"].section(**section)))
check_benchmarks(config, "smoke.yaml")
draw_all(config, layout, "hues")
grade.run(config, layout, seed=0, checkpoint="base", benchmark="hues")
own = layout.checkpoint(0, "base") / "evaluation"
rows = [("gap/self/understanding", "gap", "a", 1.0, 1.0), ("gap/self/generation", "gap", "a", 0.0, 1.0)]
write_table(own / "units.parquet", pd.DataFrame(rows, columns=list(UNIT_COLUMNS)))
write_weights(own / "features.safetensors", {name: torch.zeros(0, 1) for name in ("generated", "real")})
folders = {"base": {0: benchmark_folders(config, layout, 0, "base")}}
summary = summarise({"base": {0: own}}, folders, resamples=20, confidence=0.95)
*_, table = all_tables(summary, config, PAPER_TABLES, benchmark_lines(folders))
graded = pd.read_parquet(layout.benchmark(0, "base", "hues") / "rows.parquet")
print(json.dumps({
    "figure": table.values.loc[0, "hues"],
    "right": float(graded["right"].mean()),
    "rows": len(graded),
    "table": to_markdown(table),
    "rules": sorted({place.rule for place in places(config) if place.benchmark == "hues"}),
    "schema": "hues" in json.dumps(config_schema()),
    "digests": {name: [digests.code_digests(one), digests.step_digests(one)] for name, one in others.items()},
}))
"""


def test_a_new_module_is_all_that_a_benchmark_needs(tmp_path):
    """The example of the docs in a copy of the package: generated, graded, planned and reported.

    No step of another config is stale.
    """
    shutil.copytree(provenance.ROOT, tmp_path / "src" / "hermesflow")
    (tmp_path / "src" / "hermesflow" / "evaluation" / "benchmarks" / "hues.py").write_text(example())
    configs = [str(ROOT / "config" / f"{name}.yaml") for name in ("showo", "smoke")]
    (tmp_path / "world").mkdir()
    paths = os.pathsep.join((str(tmp_path / "src"), str(ROOT)))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "world"), *configs]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rows"] == 3 * 2 and told["figure"] == pytest.approx(100 * told["right"], abs=1e-5)
    assert "Right colour" in told["table"] and "hues: Hues, 3 prompts x 2 images; 3 items" in told["table"]
    assert told["rules"] == ["draw", "gather_drawn", "grade"] and told["schema"]
    before = {path: load_config(path) for path in configs}
    assert told["digests"] == {name: [code_digests(one), step_digests(one)] for name, one in before.items()}


def test_the_example_of_the_docs_is_whole():
    tree = ast.parse(example())
    assert ast.get_docstring(tree) and len(example().splitlines()) < 90
