"""The seam of data sources: a section and a module are all that one needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

from hermesflow.config.digests import code_digests, modules_behind, step_digests
from hermesflow.config.load import load_config
from hermesflow.core import provenance
from tests.support.journeydb_world import SIZES, TOTAL, jpeg, write_config

ROOT = Path(__file__).parents[2]
CONFIGS = [str(ROOT / "config" / f"{name}.yaml") for name in ("showo", "smoke")]
PROGRAM = """
import json, sys
from pathlib import Path

from hermesflow.cli.fetching import pinned_yaml
from hermesflow.config import digests
from hermesflow.config.experiment import config_schema
from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.data.pairs import read_pairs
from hermesflow.stages import data

config, layout = load_config(sys.argv[1]), Layout(Path("results"))
data.run(config, layout)
others = {path: load_config(path) for path in sys.argv[2:]}
print(json.dumps({
    "rows": {split: list(read_pairs(layout.data(split))["caption"]) for split in data.SPLITS},
    "question": read_pairs(layout.data("pairs"))[0]["questions"][0],
    "schema": '"tsv"' in json.dumps(config_schema()),
    "pins": pinned_yaml(config),
    "behind": [name for name, _ in digests.modules_behind("data", config)],
    "digests": {name: [digests.code_digests(one), digests.step_digests(one)] for name, one in others.items()},
}))
"""


def example():
    """The module that docs/data.md walks through."""
    text = (ROOT / "docs" / "data.md").read_text()
    return text.partition("## Adding a source")[2].partition("```python\n")[2].partition("```")[0]


@pytest.fixture
def package(tmp_path):
    """A copy of the package with the example's section and module."""
    copy = tmp_path / "src" / "hermesflow"
    copytree(provenance.ROOT, copy)
    (copy / "data" / "sources" / "tsv.py").write_text(example())
    path = copy / "config" / "data.py"
    text = path.read_text()
    section = '@section\nclass Tsv(RealData):\n    source: Literal["tsv"]\n\n\n'
    before, union, after = text.partition("AnyData = ")
    path.write_text(before + section + union + after.replace("| Folder", "| Folder | Tsv"))
    return tmp_path


def test_a_section_and_a_module_are_all_that_a_source_needs(package):
    """Pairs, schema and pins; no step of another config is stale."""
    folder = package / "own"
    folder.mkdir()
    lines = [f"{n:03d}.jpg\tCat number {n}\tWhat is it?\ta cat|a dog\ta cat" for n in range(TOTAL + 2)]
    for number in range(TOTAL + 1):
        (folder / f"{number:03d}.jpg").write_bytes(jpeg(number))
    (folder / "cats.tsv").write_text("\n".join(["broken", *lines]))
    config = write_config(package / "config.yaml", source="tsv", path=str(folder / "cats.tsv"), base_pairs=1)
    command = [sys.executable, "-c", PROGRAM, str(config), *CONFIGS]
    environment = {**os.environ, "PYTHONPATH": str(package / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=package, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert {split: len(captions) for split, captions in told["rows"].items()} == {**SIZES, "base": 1}
    assert {caption for own in told["rows"].values() for caption in own} == {
        f"Cat number {n}" for n in range(TOTAL + 1)
    }
    assert told["question"] == {
        "question": "What is it?",
        "choices": ["a cat", "a dog"],
        "answer": "a cat",
        "kind": "tsv",
    }
    assert (package / "results" / "data" / "rejected.csv").read_text().splitlines()[1].startswith("cats.tsv,,1,")
    assert told["schema"] and "data:" not in told["pins"]  # no key `revision`: nothing on the hub
    assert "hermesflow.data.sources.tsv" in told["behind"] and "hermesflow.data.sources.folder" not in told["behind"]
    before = {path: load_config(path) for path in CONFIGS}
    assert told["digests"] == {name: [code_digests(one), step_digests(one)] for name, one in before.items()}


@pytest.mark.parametrize(("path", "own"), [(CONFIGS[0], {"journeydb"}), (CONFIGS[1], set())])
def test_of_all_sources_that_of_the_config_counts(path, own):
    names = {name.rpartition(".")[2] for name, _ in modules_behind("data", load_config(path))}
    assert names & {"journeydb", "folder"} == own
