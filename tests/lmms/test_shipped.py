"""The tasks that lmms-eval ships: what docs/lmms-eval.md and the plan say of them."""

import pytest
import yaml
from lmms_eval.utils import load_yaml_config

from hermesflow.evaluation.lmms import running
from hermesflow.evaluation.registry import lmms_benchmarks

from . import world

pytestmark = pytest.mark.lmms
HUB = "lmms-lab-encoder"
TASKS = {name: task for one in lmms_benchmarks() for name, task in one.tasks.items()}
FILES = {
    "pope_random": ("pope/pope_random.yaml", "POPE", "Full", "random"),
    "pope_pop": ("pope/pope_pop.yaml", "POPE", "Full", "popular"),
    "pope_adv": ("pope/pope_adv.yaml", "POPE", "Full", "adversarial"),
    "mme": ("mme/mme.yaml", "MME", None, "test"),
    "flickr30k_test": ("flickr30k/flickr30k_test.yaml", "flickr30k", None, "test"),
    "flickr30k_karpathy": (running.TASKS / "flickr30k_karpathy.yaml", "flickr30k", None, "test"),
    "vqav2_val": ("vqav2/vqav2_val.yaml", "VQAv2", None, "validation"),
    "vqav2_test": ("vqav2/vqav2_test.yaml", "VQAv2", None, "test"),
    "gqa": ("gqa/gqa.yaml", "GQA", "testdev_balanced_instructions", "testdev"),
    "mmmu_val": ("mmmu/mmmu_val.yaml", "MMMU", None, "validation"),
}
"""File, data set, configuration and split of each task."""
SHORT = ("pope", "mme", "vqav2", "gqa")
"""How the names of those begin that ask for a single word."""


def shipped(name):
    return load_yaml_config(str(world.SHIPPED / FILES[name][0]), mode="simple")


def test_every_task_is_looked_at():
    assert set(FILES) == set(TASKS)


@pytest.mark.parametrize("name", FILES)
def test_name_and_data(name):
    task = shipped(name)
    found = task["task"], task["dataset_path"], task.get("dataset_name"), task["test_split"].strip()
    assert found == (name, f"{HUB}/{FILES[name][1]}", *FILES[name][2:])


@pytest.mark.parametrize("name", FILES)
def test_the_plan_counts_as_many_new_tokens_as_the_task_allows(name):
    assert shipped(name)["generation_kwargs"]["max_new_tokens"] == TASKS[name].tokens


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(SHORT)])
def test_what_is_put_behind_a_question(name):
    assert shipped(name)["lmms_eval_specific_kwargs"]["default"] == {"pre_prompt": "", "post_prompt": world.SHORT}


def meant(value):
    """A task's value; of a function its name without the module."""
    return value.value.rpartition(".")[2] if isinstance(value, yaml.Node) else value


def test_karpathys_task_differs_from_the_shipped_one_in_its_images_and_figures_alone():
    """CIDEr is the figure; the shipped one's others would keep Java busy for nothing."""
    full, own = shipped("flickr30k_test"), shipped("flickr30k_karpathy")
    differ = {"task", "metric_list"}
    assert set(own) - set(full) == {"process_docs"} and set(full) <= set(own)
    assert {key: meant(full[key]) for key in set(full) - differ} == {key: meant(own[key]) for key in set(full) - differ}
    assert [metric["metric"] for metric in own["metric_list"]] == ["flickr_CIDEr"]
