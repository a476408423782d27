"""The container recipes pin what constraints.txt pins, and the rules run inside a container."""

import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from .conftest import REPOSITORY, make_clone

IMAGE = "containers/hermesflow.sif"
RECIPES = [REPOSITORY / "containers" / name for name in ("Dockerfile", "hermesflow.def")]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
APPTAINER = """#!/bin/bash
# Stands in for apptainer: notes the call and runs the command here, with the python of an image first on PATH.
set -eu
[ "$1" = --version ] && { echo "apptainer version 1.4.0"; exit; }
echo "$PWD: $*" >> "$0.calls"
[ "$1" = exec ] || exit 64
while [ "$1" != IMAGE ]; do shift; done
shift
unset PYTHONPATH
PATH="$(dirname "$0")/inside:$PATH" exec "$@"
""".replace("IMAGE", IMAGE)


def base_image(recipe):
    """The line that names it, `FROM x` or `From: x`."""
    (name,) = re.findall(r"^from:?\s+(\S+)$", recipe.read_text(), re.IGNORECASE | re.MULTILINE)
    return name


def pins():
    """Versions of constraints.txt by name."""
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = {}
    for requirement in map(Requirement, lines):
        (spec,) = requirement.specifier
        assert spec.operator == "==", requirement
        assert "*" not in spec.version, requirement
        found[canonicalize_name(requirement.name)] = spec.version
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_installs_at_the_pinned_versions_alone(recipe):
    text = recipe.read_text()
    installs = re.findall(r"pip install (.*)", text)
    assert installs == ["--no-cache-dir -c constraints.txt ."]
    for copied in ("pyproject.toml", "constraints.txt", "README.md", "src"):
        assert re.search(rf"^\s*(COPY .*)?\b{re.escape(copied)}\b", text, re.MULTILINE), copied


def test_both_recipes_start_from_the_same_pinned_python():
    (image,) = {base_image(recipe) for recipe in RECIPES}
    version = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-\w+", image)[1]
    assert version in SpecifierSet(PROJECT["requires-python"])
    tested = re.search(r"Python (\d+\.\d+)", (REPOSITORY / "constraints.txt").read_text())[1]
    assert version.startswith(f"{tested}.")


def test_every_direct_dependency_is_pinned_and_no_build_of_torch_is_named():
    named = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    missing = {canonicalize_name(Requirement(name).name) for name in named} - set(pins())
    assert not missing
    assert not [version for version in pins().values() if "+" in version]


def test_every_profile_lets_the_container_be_turned_on_without_running_again():
    for profile in (REPOSITORY / "workflow" / "profiles").glob("*/config.yaml"):
        assert "rerun-triggers: [mtime, params, input, code]" in profile.read_text(), profile


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with a stand-in for apptainer on its PATH."""
    clone = make_clone(tmp_path_factory.mktemp("container") / "clone")
    inside = clone.root / "bin" / "inside" / "python"
    inside.parent.mkdir(parents=True)
    inside.write_text(f'#!/bin/sh\necho "$PYTHONPATH $*" >> "$0.calls"\nexec {sys.executable} "$@"\n')
    apptainer = clone.root / "bin" / "apptainer"
    apptainer.write_text(APPTAINER)
    for program in (inside, apptainer):
        program.chmod(0o755)
    return clone


def data(clone, *arguments):
    """Ask Snakemake for the results of the `data` rule; what it says."""
    options = ["--quiet", "host", *arguments, "--", "results/tiny/data/pairs.parquet"]
    path = f"PATH={clone.root / 'bin'}:{clone.env['PATH']}"
    return clone.run("env", path, "snakemake", "--configfile", "config/tiny.yaml", *options)


def test_rules_run_with_the_images_python_on_this_folders_code(clone):
    data(clone, "--sdm", "apptainer", "--apptainer-args", "--nv --bind /tmp")
    (call,) = (clone.root / "bin" / "apptainer.calls").read_text().splitlines()
    assert call.startswith(f"{clone.root}: exec --home {clone.root} --nv --bind /tmp ")
    assert f" {IMAGE} bash -c " in call
    (inside,) = (clone.root / "bin" / "inside" / "python.calls").read_text().splitlines()
    assert inside.startswith("src -m hermesflow data --config config/tiny.yaml")
    assert (clone.results / "data" / "pairs.parquet").is_file()


def test_finished_work_stays_finished_when_the_container_is_turned_off_or_on(clone):
    data(clone, "--sdm", "apptainer")
    assert "Nothing to be done" in data(clone, "--dry-run")
    data(clone, "--force")
    assert "Nothing to be done" in data(clone, "--dry-run", "--sdm", "apptainer")
    without = data(clone, "--dry-run", "--sdm", "apptainer", "--rerun-triggers", "software-env")
    assert "Software environment definition has changed" in without
