"""The house's import rules, read from the source and seen in fresh processes."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hermesflow.config.reads import READS
from hermesflow.core import provenance
from tests.support.imports import imports_of

LAYERS = (
    ("core",),
    ("config",),
    ("data",),
    ("models",),
    ("selfplay",),
    ("training", "evaluation"),
    ("report",),
    ("tracking",),
    ("stages",),
    ("budget",),
    ("cli",),
)
"""Packages from the bottom up: a package imports what stands before it, and no other of its own line."""

NEEDS_LMMS_EVAL = "hermesflow.evaluation.lmms.plugin"
"""Imported by lmms-eval alone, in its own environment."""


def modules():
    names = {}
    for path in sorted(provenance.ROOT.rglob("*.py")):
        parts = path.relative_to(provenance.ROOT).with_suffix("").parts
        names[".".join(("hermesflow", *(p for p in parts if p != "__init__")))] = path
    return names


def package_of(module):
    """The package a module is in; `` for `hermesflow` itself and its `__main__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (provenance.ROOT / parts[1]).is_dir() else ""


def test_packages_are_those_of_the_plan():
    packages = {path.parent.name for path in provenance.ROOT.glob("*/__init__.py")}
    assert packages == {name for layer in LAYERS for name in layer}
    alone = {path.name for path in provenance.ROOT.glob("*.py")}
    assert alone == {"__init__.py", "__main__.py"}


def test_arrows_between_packages_point_one_way():
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for module in modules():
        package = package_of(module)
        for other in imports_of(module):
            target = package_of(other)
            if not package or not target or target == package:
                continue
            if level[target] >= level[package]:
                wrong.append(f"{module} -> {other}")
    assert not wrong


def test_no_cycles():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name in done:
            return
        path.append(name)
        for other in imports_of(name):
            if provenance.path_of(other).name != "__init__.py":
                visit(other)
        path.pop()
        done.add(name)

    for name in modules():
        visit(name)


def imported_roots(path):
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").partition(".")[0])
    return roots


def test_losses_import_torch_alone():
    assert imported_roots(provenance.ROOT / "training" / "losses.py") - {"__future__", "typing"} == {"torch"}


def test_tracking_alone_imports_mlflow():
    assert {package_of(name) for name, path in modules().items() if "mlflow" in imported_roots(path)} == {"tracking"}


def test_package_does_not_import_snakemake():
    assert not [name for name, path in modules().items() if "snakemake" in imported_roots(path)]


PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
heavy = sorted({"torch", "transformers", "datasets", "mlflow", "scipy", "matplotlib", "pandas"} & set(sys.modules))
print(json.dumps({"heavy": heavy}))
"""


def probe(folder, *names):
    done = subprocess.run([sys.executable, "-c", PROBE, *names], cwd=folder, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 1, "importing printed something"
    return json.loads(lines[0])


def test_importing_does_nothing(tmp_path):
    names = [name for name in modules() if not name.endswith("__main__") and name != NEEDS_LMMS_EVAL]
    probe(tmp_path, *names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("hermesflow.cli.main", set()),
        ("hermesflow.config.digests", set()),
        ("hermesflow.stages.prefer", {"pandas"}),
        ("hermesflow.stages.gather_candidates", {"pandas", "datasets"}),
        ("hermesflow.stages.gather_scores", {"pandas", "datasets"}),
    ],
)
def test_short_steps_start_without_heavy_libraries(module, allowed, tmp_path):
    assert set(probe(tmp_path, module)["heavy"]) <= allowed


def test_every_stage_of_the_command_line_has_its_module():
    from hermesflow.cli.main import STAGES

    found = {path.stem for path in Path(provenance.ROOT, "stages").glob("*.py")} - {"__init__"}
    assert found == set(STAGES) == set(READS)
