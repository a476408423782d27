"""Order is no reason: where a line stands in a config, or what stands beside it, changes no step but the report."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from hermesflow.cli.main import STAGES
from hermesflow.config.benchmarks import COLUMNS
from hermesflow.config.digests import step_digests
from hermesflow.config.load import load_config
from hermesflow.config.reads import params_of
from hermesflow.config.tree import reference_of
from hermesflow.report.roles import candidate_sweep, pair_chains, roles

CONFIGS = Path(__file__).parents[2] / "config"
SMOKE = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
NAMES = ("a", "b", "pair-1", "z")
OWN = st.fixed_dictionaries(
    {"objective": st.sampled_from(["pair", "product", "understanding", "generation"])},
    optional={
        "candidates": st.integers(1, 3),
        "steps": st.integers(2, 4),
        "beta": st.sampled_from([0.1, 0.2, 0.7]),
        "chosen_nll_weight": st.sampled_from([0.0, 1.0]),
        "pairs": st.just("both"),
        "rejected": st.sampled_from(["previous", "fresh"]),
        "mask_ratios": st.sampled_from([[0.0, 0.5], [0.85, 1.0]]),
    },
)


@st.composite
def trees(draw):
    """Up to four checkpoints, each from base or from one before it."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 4))]
    return {
        name: {"parent": draw(st.sampled_from(["base", *names[:place]])), **draw(OWN)}
        for place, name in enumerate(names)
    }


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Load a config that is smoke.yaml with other top-level keys."""
    file = tmp_path_factory.mktemp("order") / "config.yaml"

    def load(**keys):
        file.write_text(yaml.safe_dump({**SMOKE, **keys}, sort_keys=False))
        return load_config(file)

    return load


def steps(config, checkpoint):
    """What all steps of a checkpoint are made from beside their inputs' content, with the inputs' names."""
    stages = [stage for stage, one in STAGES.items() if "checkpoint" in one.takes and "benchmark" not in one.takes]
    values = {stage: params_of(config, stage, checkpoint) for stage in stages}
    return json.dumps([values, config.checkpoints[checkpoint].parent, reference_of(config, checkpoint)], sort_keys=True)


@given(trees(), st.randoms())
def test_another_order_is_the_same_config(read, tree, random):
    shuffled = list(tree.items())
    random.shuffle(shuffled)
    one, other = read(checkpoints=tree), read(checkpoints=dict(shuffled))
    assert one == other and list(one.checkpoints) == list(other.checkpoints)
    assert step_digests(one) == step_digests(other)
    assert (pair_chains(one), roles(one), candidate_sweep(one)) == (
        *(pair_chains(other), roles(other), candidate_sweep(other)),
    )


@given(trees(), st.sampled_from(["base", *NAMES]), OWN, st.integers(0, 4))
def test_a_neighbour_that_comes_or_goes_changes_no_step_of_the_others(read, tree, parent, entry, place):
    assume(parent == "base" or parent in tree)
    lines = list(tree.items())
    lines.insert(place, ("new", {"parent": parent, **entry}))
    before, after = read(checkpoints=tree), read(checkpoints=dict(lines))
    for name in tree:
        assert steps(before, name) == steps(after, name)
    old, new = step_digests(before), step_digests(after)
    assert {step for step in old if old[step] != new[step]} == {"report"}
    assert list(before.checkpoints) == [name for name in after.checkpoints if name != "new"]


@given(trees(), st.sampled_from(NAMES))
def test_a_renamed_sibling_changes_no_step_of_the_others(read, tree, name):
    assume(name in tree and name not in [entry["parent"] for entry in tree.values()])
    renamed = {"m" if key == name else key: entry for key, entry in tree.items()}
    before, after = read(checkpoints=tree), read(checkpoints=renamed)
    for other in tree.keys() - {name}:
        assert steps(before, other) == steps(after, other)
    assert reference_of(before, name) == reference_of(after, "m")


def test_children_follow_their_parents_and_own_settings_come_last(read):
    tree = {
        "z-beta": {"parent": "base", "objective": "pair", "beta": 0.5},
        "few": {"parent": "base", "objective": "pair", "candidates": 2},
        "fewer": {"parent": "base", "objective": "pair", "candidates": 1},
        "second": {"parent": "first", "objective": "pair"},
        "gen": {"parent": "base", "objective": "generation"},
        "und": {"parent": "base", "objective": "understanding"},
        "first": {"parent": "base", "objective": "pair"},
    }
    assert list(read(checkpoints=tree).checkpoints) == ["first", "second", "und", "gen", "z-beta", "fewer", "few"]


@pytest.mark.parametrize("name", ["micro", "smoke", "showo"])
def test_shipped_configs_stand_in_that_order(name):
    path = CONFIGS / f"{name}.yaml"
    assert list(load_config(path).checkpoints) == list(yaml.safe_load(path.read_text())["checkpoints"])


def reversed_keys(value):
    """The same sections with their keys the other way round; lists as they are."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return value


@pytest.mark.parametrize("name", ["micro", "smoke", "showo"])
def test_the_order_of_keys_means_nothing(tmp_path, name):
    plain = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(reversed_keys(plain), sort_keys=False))
    one, other = load_config(CONFIGS / f"{name}.yaml"), load_config(file)
    assert one == other and list(one.checkpoints) == list(other.checkpoints)
    assert step_digests(one) == step_digests(other)


def lists(plain, path=()):
    """Places of all lists in a config file."""
    for key, value in plain.items():
        if isinstance(value, dict):
            yield from lists(value, (*path, key))
        elif isinstance(value, list) and len(value) > 1:
            yield (*path, key)


def test_another_seed_or_benchmark_changes_the_report_alone(read):
    def differing(one, other):
        old, new = step_digests(one), step_digests(other)
        return {step for step in old.keys() & new.keys() if old[step] != new[step]}

    assert differing(read(), read(seeds=[4, 0])) == {"report"}
    sections = yaml.safe_load((CONFIGS / "showo.yaml").read_text())["benchmarks"]
    for name in sections:
        fewer = {key: section for key, section in sections.items() if key != name}
        assert differing(read(benchmarks=sections), read(benchmarks=fewer)) == {"report"}


MEANT = {"decodings", "encoder_multipliers", "encoder_blocks", "decoder_multipliers", "decoder_blocks"}
"""Lists whose order says something: which candidate is which, which level of the tokenizer."""


def test_the_order_of_lists_means_nothing_but_where_it_says_so(tmp_path):
    """Seeds, layers with adapters, columns, shards of JourneyDB."""
    plain = yaml.safe_load((CONFIGS / "showo.yaml").read_text())
    plain["training"]["lora"] = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "fc1"]}
    plain["data"]["shards"] = ["007", "001"]
    plain["benchmarks"]["understanding"]["columns"] = list(COLUMNS[:3])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(plain))
    before, tried = step_digests(load_config(file)), set()
    for path in list(lists(plain)):
        inner = plain
        for key in path[:-1]:
            inner = inner[key]
        value = inner[path[-1]]
        inner[path[-1]] = value[::-1]
        file.write_text(yaml.safe_dump(plain))
        inner[path[-1]] = value
        if path[-1] not in MEANT and value != value[::-1]:
            tried.add(path[-1])
            assert step_digests(load_config(file)) == before, path
    assert tried == {"seeds", "targets", "shards", "columns"}
