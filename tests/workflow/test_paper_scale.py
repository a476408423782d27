"""Configs of the paper's scale from `fetch --pin` to tables, with tiny models under the names they give."""

import json
import math
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.core.images import read_images
from hermesflow.data.pairs import read_pairs
from tests.support.hub_server import HubServer
from tests.support.one_process import one_process
from tests.support.paper_world import CONFIGS, lay_over, release, small_config
from tests.support.snakemakes import run_snakemake

SRC = CONFIGS.parent / "src"

STAGES = (
    *("tokenizer", "encode", "base --seed 0"),
    *(f"sample {{}} --shard {shard} --shards 2" for shard in (0, 1)),
    "gather_candidates {} --shards 2",
    *(f"score {{}} --shard {shard} --shards 2" for shard in (0, 1)),
    *("gather_scores {} --shards 2", "agreement --seed 0", "judge"),
    *("prefer --seed 0 --checkpoint pair-1", "reference --seed 0 --checkpoint base --variant all-4"),
    *(f"{stage} --seed 0 --checkpoint pair-1" for stage in ("train", "evaluate")),
    "evaluate --seed 0 --checkpoint base",
    "report --seeds 0",
)

SIDES = ("understanding", "generation", "gap", "both_right")


FAMILIES = ("showo", "janus-pro-1b", "emu3-stage1")


class World:
    """A hub, the pinned config, and the commands."""

    def __init__(self, folder, hub, name):
        self.folder, self.hub, self.name = folder, hub, name
        self.weights = release(hub, folder, name)
        self.config = folder / f"{name}.yaml"
        self.config.write_text(yaml.safe_dump(small_config(folder, name)))
        self.tokens = load_config(self.config).num_image_tokens
        self.layout = Layout(folder / "results" / name)

    def run(self, *command, **more):
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=self.hub.environment(self.folder / "cache", MPLBACKEND="agg", **more),
        )

    def pin(self):
        """As a user does: `fetch` refuses, `fetch --pin` says what to write into the config."""
        asked = len(self.hub.requests)
        refused = self.run("-m", "hermesflow", "fetch", "--config", str(self.config))
        assert refused.returncode == 1 and "fetch --pin" in refused.stderr
        assert len(self.hub.requests) == asked
        pins = self.run("-m", "hermesflow", "fetch", "--pin", "--config", str(self.config))
        assert pins.returncode == 0, pins.stderr
        plain = lay_over(yaml.safe_load(self.config.read_text()), yaml.safe_load(pins.stdout))
        assert "null" not in yaml.safe_dump({key: plain[key] for key in ("data", "weights", "language_model")})
        self.config.write_text(yaml.safe_dump(plain))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """One hub, and after all stages one folder of results, which all families share as users' runs do."""
    folder = tmp_path_factory.mktemp("paper")
    with HubServer() as hub:
        worlds = {name: World(folder, hub, name) for name in FAMILIES}
        for world in worlds.values():
            world.pin()
        first = [line.format("--seed 0 --checkpoint base") for line in STAGES]
        for lines, more in ((("fetch", "data"), {}), (first, {"HF_HUB_OFFLINE": "1"})):
            lines = [f"{line} --config {world.config}" for world in worlds.values() for line in lines]
            done = world.run(*one_process(lines)[1:], **more)
            assert done.returncode == 0, done.stderr[-3000:]
        yield worlds


@pytest.fixture(params=FAMILIES)
def world(worlds, request):
    return worlds[request.param]


def test_pairs_have_questions_of_journeydb_and_of_tifas_models(world):
    counts = pd.read_csv(world.layout.root / "data" / "questions.csv").set_index(["from", "outcome"])["questions"]
    assert counts["source", "kept"] > 0 and counts["model", "kept"] > 0
    pairs = read_pairs(world.layout.data("pairs"))
    assert len(pairs) == 6 and set(pairs["kind"]) == {"journeydb"}
    assert {q["kind"] for q in pairs[0]["questions"]} == {"style", "content", "animal/human"}
    origin = json.loads((world.layout.root / "data" / "selection.json").read_text())["origin"]
    assert origin["commit"] == world.hub.repositories["datasets", "JourneyDB/JourneyDB"].commit


def test_the_chain_starts_from_the_released_weights(world):
    base = load_file(world.layout.checkpoint(0, "base") / "model" / "model.safetensors")
    assert all(torch.equal(base[name], tensor) for name, tensor in world.weights["language_model"].items())
    tokenizer = load_file(world.layout.tokenizer / "model.safetensors")
    assert all(torch.equal(tokenizer[name], tensor) for name, tensor in world.weights["image_tokenizer"].items())


def test_candidates_are_scored_and_paired(world):
    base = world.layout.checkpoint(0, "base")
    ids, codes = read_images(base / "candidates" / "images.npy")
    assert codes.shape == (6, 4, world.tokens)
    captions = pd.read_parquet(base / "scores" / "captions.parquet")
    images = pd.read_parquet(base / "scores" / "images.parquet")
    assert len(captions) == 6 * 10 and len(images) == 6 * 4 and set(images["questions"]) == {3}
    assert captions.groupby("id")["score"].nunique().max() > 1 and images.groupby("id")["score"].nunique().max() > 1
    pairs = pd.read_parquet(world.layout.checkpoint(0, "pair-1") / "preferences" / "preferences.parquet")
    assert 0 < len(pairs) <= 6 and set(pairs["id"]) <= set(ids)


def test_pair_dpo_starts_at_its_reference_and_moves(world):
    folder = world.layout.checkpoint(0, "pair-1") / "model"
    history = pd.read_csv(folder / "history.csv")
    assert len(history) == 4 and history["loss"][0] == pytest.approx(2 * math.log(2), abs=1e-4)
    trained = load_file(folder / "model.safetensors")
    assert any(not torch.equal(trained[name], tensor) for name, tensor in world.weights["language_model"].items())


def test_evaluation_is_the_models_own_where_no_judge_reads_the_images(world):
    folder = world.layout.checkpoint(0, "pair-1") / "evaluation"
    metrics = json.loads((folder / "metrics.json").read_text())
    stem = "gap/self"
    assert metrics.keys() == {"vqa", "cider", *(f"{stem}/{side}" for side in SIDES)}
    assert metrics[f"{stem}/gap"] == pytest.approx(metrics[f"{stem}/understanding"] - metrics[f"{stem}/generation"])
    table = pd.read_parquet(folder / "gap.parquet")
    assert len(table) == 2 * 3 and table["understanding"].mean() == pytest.approx(metrics[f"{stem}/understanding"])
    questions = {q["question"]: q for row in read_pairs(world.layout.data("gap")) for q in row["questions"]}
    for row in table.itertuples():
        assert {row.said_of_real, row.said_of_drawn} <= set(questions[row.question]["choices"])
        assert row.generation == (row.said_of_drawn == row.answer)
    ids, samples = read_images(folder / "samples.npy")
    assert samples.shape == (len(ids), 1, world.tokens) and set(ids) <= set(
        read_pairs(world.layout.data("prompts"))["id"]
    )


def test_tables_have_what_was_measured_and_say_why_the_rest_is_empty(world):
    folder = world.layout.report / "tables"
    understanding = pd.read_csv(folder / "table1_understanding.csv").set_index("model")
    assert understanding.loc["base", ["vqa", "cider"]].notna().all()
    assert understanding.loc["base", ["pope", "mme", "gqa", "mmmu"]].isna().all()
    gaps = pd.read_csv(folder / "table4_gap.csv")
    assert list(gaps["protocol"]) == ["self", "self"] and list(gaps["checkpoint"]) == ["base", "pair-1"]
    assert gaps[["understanding", "generation", "gap"]].notna().all(axis=None)
    ablation = pd.read_csv(folder / "table5_ablation.csv").set_index("checkpoint")
    assert ablation.loc["pair-1", ["vqa", "gap_self"]].notna().all()
    assert (ablation.set_index("source").loc["paper, camera-ready", "pope"] > 0).all()
    for name in ("table1_understanding", "table2_generation", "table3_fidelity", "table5_ablation"):
        assert "Some columns were not measured here" in (folder / f"{name}.md").read_text()
    answer = (world.layout.report / "answer.md").read_text()
    assert "own answers" in answer and "micro world" not in answer
    for name in (
        "fig2b_gap",
        "fig4_samples",
        "before_after",
        "fig6_candidates",
        "training_curves",
        "preference_examples",
    ):
        assert (world.layout.report / "figures" / f"{name}.png").stat().st_size > 5000


def test_what_has_no_judge_says_so(world):
    agreement = json.loads((world.layout.checkpoint(0, "base") / "scores" / "agreement.json").read_text())
    assert agreement == {"captions": {}, "images": {}, "pairs": 0}
    assert json.loads(world.layout.judge.read_text()).keys() == {"no judge"}


def test_every_rule_of_the_dag_has_run(world, tmp_path):
    """All rules that Snakemake lists for one seed of the config but those of benchmarks, which have own tests."""
    one_seed = tmp_path / "one_seed.yaml"
    extended = {"extends": str(CONFIGS / f"{world.name}.yaml"), "name": world.name, "seeds": [0]}
    one_seed.write_text(yaml.safe_dump(extended))
    command = [sys.executable, "workflow/scripts/jobs.py", str(one_seed)]
    status, told = run_snakemake(command, cwd=CONFIGS.parent, env={**os.environ, "PYTHONPATH": str(SRC)})
    assert status == 0, told
    listed = {json.loads(line)["rule"] for line in told.splitlines() if line.startswith("{")}
    listed -= {"all", "draw", "gather_drawn", "grade", "understand"}
    assert listed == {"data", *(line.split()[0] for line in STAGES)}
