"""The Slurm profile: what a user must edit is explained, and every rule with a GPU is sent to the GPU partition."""

import re
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
PROFILE = REPOSITORY / "workflow" / "profiles" / "slurm" / "config.yaml"


def test_every_line_to_edit_is_explained():
    marked = re.findall(r"^\s*([\w-]+):.*# EDIT", PROFILE.read_text(), flags=re.MULTILINE)
    assert len(marked) == 5
    explained = (REPOSITORY / "docs" / "slurm.md").read_text()
    assert not [key for key in marked if f"| `{key}`" not in explained]


def test_rules_that_use_a_gpu_run_in_its_partition():
    rules = {}
    for path in (REPOSITORY / "workflow" / "rules").glob("*.smk"):
        rules |= dict(re.findall(r"^rule (\w+):(.*?)(?=^rule |\Z)", path.read_text(), flags=re.MULTILINE | re.DOTALL))
    with_gpu = {name for name, text in rules.items() if "gpu=0" not in text}
    needs = yaml.safe_load(PROFILE.read_text())["set-resources"]
    assert set(needs) == with_gpu
    assert {rule["slurm_partition"] for rule in needs.values()} == {"gpu"}
