import ast
import dataclasses
from pathlib import Path

import pytest

from hermesflow.cli.main import STAGES
from hermesflow.config import reads
from hermesflow.config.benchmarks import COLUMNS, Benchmarks, Understanding
from hermesflow.config.experiment import Config
from hermesflow.config.judges import LocalVlm, Pace, Prices
from hermesflow.config.load import load_config
from hermesflow.config.sections import Stopping
from hermesflow.core.provenance import ROOT
from hermesflow.evaluation.benchmarks.gap import Gap

SHOWO = Path(__file__).parents[2] / "config" / "showo.yaml"
SMOKE = load_config(SHOWO.with_name("smoke.yaml"))
PROPERTIES = {
    "num_image_tokens": {"data.image_size", "image_tokenizer"},
    "codebook_size": {"image_tokenizer"},
    "training_of": {"training", "checkpoint"},
    "preferences_of": {"preferences", "checkpoint.pairs", "checkpoint.rejected"},
    "iteration": {"checkpoint"},
    "checkpoints": {"checkpoint"},
    "sampled_checkpoints": {"checkpoint"},
    "benchmarks": {"benchmark"},
}
FREE = {"runtime", "name", "seeds", "reference_of"}
"""How a step runs, and where it and its inputs lie: no reason to run it again."""
INHERITED = {"training_of", "preferences_of", "iteration", "sampled_checkpoints", "reference_of"}
"""Functions of `config.tree`, by what they read (`PROPERTIES`)."""


def chains(path):
    """Dotted keys read off parameters that are annotated as Config, and functions of `config.tree` given one."""
    found = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        parameters = [*function.args.args, *function.args.kwonlyargs]
        names = {p.arg for p in parameters if p.annotation and ast.unparse(p.annotation) == "Config"}
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in INHERITED:
                found.add(node.func.id)
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
    for chain in chains(ROOT / "stages" / f"{stage}.py"):
        head = chain.partition(".")[0]
        for key in PROPERTIES.get(head, {chain}):
            if head not in FREE and not covers(reads.READS[stage], key):
                missing.append(key)
    assert not missing, f"add to reads.READS[{stage!r}]"


@pytest.mark.parametrize("stage", STAGES)
def test_declared_keys_are_keys_of_the_config(stage):
    values = reads.params_of(SMOKE, stage, "pair-1")
    left_out = {"benchmarks", "data.style", "data.shift"}
    left_out |= {"data.seed", "data.source", "sampling.images"} if stage == "train" else set()  # none stops early
    assert list(values) == [key for key in reads.reads(stage, "pair-1") if key not in left_out]


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"beta": 0.9}, ["train"]),
        ({"chosen_nll_reduction": "token_mean"}, ["train"]),
        ({"mask_ratios": (0.85, 1.0)}, ["train"]),
        ({"stopping": Stopping(every=2, patience=1, prompts=7)}, ["train"]),
        ({"pairs": "any"}, ["prefer", "train"]),
        ({"rejected": "fresh"}, ["prefer", "train"]),
    ],
)
def test_one_checkpoints_settings_touch_no_other_step(change, stages):
    changed = dataclasses.replace(SMOKE.checkpoints["pair-2"], **change)
    other = dataclasses.replace(SMOKE, checkpoints={**SMOKE.checkpoints, "pair-2": changed})
    touched = [
        (stage, checkpoint)
        for stage in STAGES
        for checkpoint in SMOKE.checkpoints
        if "checkpoint" in STAGES[stage].takes
        and reads.params_of(SMOKE, stage, checkpoint) != reads.params_of(other, stage, checkpoint)
    ]
    assert touched == [(stage, "pair-2") for stage in stages]


def test_who_draws_and_who_reads_pictures_knows_how_they_are_drawn():
    config = load_config(SHOWO.with_name("pictures.yaml"))
    params = {stage: reads.params_of(config, stage, "pair-1") for stage in STAGES}
    assert params["judge"] == {"data.source": "pictures"}  # a key that is not given is no value
    assert not {"style", "shift"} & params["data"]["data"].keys()
    for change in ({"style": "both"}, {"shift": 2}):
        other = dataclasses.replace(config, data=dataclasses.replace(config.data, **change))
        touched = {stage for stage in STAGES if params[stage] != reads.params_of(other, stage, "pair-1")}
        assert touched == {"data", "judge", "agreement", "evaluate", "report"}


def test_a_training_that_a_judge_stops_is_made_from_how_its_images_are_drawn_and_read():
    stopping = Stopping(every=2, patience=1, prompts=7)
    training = dataclasses.replace(SMOKE.training, stopping=stopping)
    images = dataclasses.replace(SMOKE.sampling.images, steps=3)
    changed = {
        "sampling": dataclasses.replace(SMOKE.sampling, images=images),
        "data": dataclasses.replace(SMOKE.data, seed=99),
    }
    for key, section in changed.items():
        for stops, config in ((False, SMOKE), (True, dataclasses.replace(SMOKE, training=training))):
            values = [
                reads.params_of(one, "train", "pair-1")
                for one in (config, dataclasses.replace(config, **{key: section}))
            ]
            assert (values[0] != values[1]) == stops
    assert list(reads.params_of(SMOKE, "train", "pair-1")) == ["checkpoints.pair-1", "training"]
    assert "stopping" not in reads.params_of(SMOKE, "train", "pair-1")["training"]


def test_how_it_runs_is_no_reason_to_run_again():
    faster = dataclasses.replace(SMOKE.runtime, shards=7, train_processes=2, device="cuda", matrix_kernel="onednn")
    other = dataclasses.replace(SMOKE, runtime=faster)
    assert isinstance(other, Config)
    for stage in STAGES:
        assert reads.params_of(SMOKE, stage, "pair-1") == reads.params_of(other, stage, "pair-1")


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
    both = [reads.params_of(one, "grade", "pair-1", "gap") for one in (config, other)]
    assert (both[0] != both[1]) == counts


def test_a_local_judge_is_known_by_its_model():
    config = load_config(SHOWO)
    params = []
    for model in ("one", "other"):
        judge = LocalVlm(kind="local", model=model, cache=model)
        own = dataclasses.replace(config, benchmarks=dataclasses.replace(config.benchmarks, gap=Gap(judge=judge)))
        params.append(reads.params_of(own, "grade", "pair-1", "gap"))
    differ = [key for key, value in params[0].items() if value != params[1][key]]
    assert differ == ["benchmarks.gap.judge.model"]


def test_a_setting_of_one_column_touches_no_other():
    own = Understanding(batch_size=1)
    config = dataclasses.replace(SMOKE, benchmarks=Benchmarks(understanding=own))

    def touched(**changes):
        benchmarks = Benchmarks(understanding=dataclasses.replace(own, **changes))
        other = dataclasses.replace(config, benchmarks=benchmarks)
        values = [(c, *(reads.params_of(o, "understand", "base", c) for o in (config, other))) for c in COLUMNS]
        return [column for column, before, after in values if before != after]

    assert touched(vqav2_submission=False) == ["vqav2"]
    assert touched(karpathy="splits.json") == ["flickr30k"]
    assert touched(tasks="folder") == list(COLUMNS)
    assert touched(batch_size=9) == []


def test_an_optional_key_that_is_not_given_is_no_value():
    config = load_config(SHOWO)
    assert config.benchmarks
    assert reads.params_of(config, "report")["benchmarks"] == list(config.benchmarks.names)
    values = reads.params_of(config, "grade", "base", "coco")["benchmarks.coco"]
    assert values.keys() >= {"captions", "reference"} and None not in values["clip"].values()
