"""Every stage that knows a world, on a tiny pictures world: grounds, things and GenEval's own prompts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hermesflow.config.load import load_config
from hermesflow.core.files import Layout, read_json, read_table
from hermesflow.core.images import read_images
from hermesflow.data.pairs import read_pairs
from hermesflow.data.worlds.language import OWN
from hermesflow.data.worlds.world import world_of
from hermesflow.evaluation.evaluated import read_evaluated
from hermesflow.models.backbone import load_model, new_model
from hermesflow.stages import clip, data, encode, evaluate, judge, tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config = load_config(Path(__file__).parents[2] / "config" / "pictures.yaml")
    config = replace(
        config,
        data=replace(config.data, base_pairs=210, pairs=7, gap_pairs=14),
        image_tokenizer=replace(config.image_tokenizer, channels=32),
        tokenizer_training=replace(config.tokenizer_training, steps=4, batch_size=16),
        language_model=replace(config.language_model, hidden_size=32, layers=1, heads=2, intermediate_size=32),
        sampling=replace(config.sampling, images=replace(config.sampling.images, steps=1)),
        evaluation=replace(
            config.evaluation,
            understanding_images=7,
            geneval_prompts=1,
            geneval_images=1,
            dense_prompts=1,
            fid_images=14,
            clip_steps=1,
        ),
    )
    layout = Layout(tmp_path_factory.mktemp("pictures") / "results")
    for stage in (data, tokenizer, encode, judge, clip):
        stage.run(config, layout)
    new_model(config, seed=0).save(layout.checkpoint(0, "base") / "model")
    evaluate.run(config, layout, seed=0, checkpoint="base")
    return config, layout


def test_prompts_hold_genevals_own_without_images(made):
    prompts = read_pairs(made[1].data("prompts"))
    own = [row for row in prompts.remove_columns("image") if row["kind"].startswith(OWN)]
    assert [(row["kind"].removeprefix(OWN), row["caption"]) for row in own] == world_of(made[0].data).prompts()
    assert len(prompts) == 7 + len(own)


def test_an_image_is_64_codes_and_a_blank_cell_the_same_wherever_it_stands(made):
    ids, codes = read_images(made[1].seen("gap"))
    assert codes.shape == (14, 1, 64)
    rows = read_pairs(made[1].data("gap")).remove_columns("image")
    place = {key: i for i, key in enumerate(ids)}
    single = [row for row in rows if row["kind"] == "colors"]
    for row in single:
        cells = codes[place[row["id"]], 0].reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(2, 2, 16)
        assert any(np.array_equal(*pair) for pair in (cells[0], cells[1]))  # one row of cells is empty


def test_the_judge_is_right_about_every_real_image(made):
    found = read_json(made[1].judge)
    real = found["real images"]["all"]
    assert (real["captions accepted"], real["questions right"]) == (1.0, 1.0)
    assert real["wrong captions rejected"] == 1.0
    assert {"same ground", "same thing", "same color", "same scene"} <= set(found["reconstructions"]["all"])


def test_the_evaluation_grades_both_kinds_of_prompts(made):
    folder = made[1].checkpoint(0, "base") / "evaluation"
    kinds = read_table(folder / "images.parquet", ["kind", "id", "caption"])["kind"]
    assert kinds.str.startswith(OWN).sum() == 179 and len(kinds) == 179 + 7
    metrics = set(read_evaluated(folder).units["metric"])
    assert {"geneval/position", f"geneval/{OWN}position", "gap/paper/generation"} <= metrics
    assert f"geneval/{OWN}overall" in read_json(folder / "metrics.json")
    asked = read_table(folder / "gap.parquet", ["kind", "question", "judge_real", "answer"])
    assert {"ground", "thing", "count", "existence"} <= set(asked["kind"])
    assert (asked["judge_real"] == asked["answer"]).all()
    dense = read_table(folder / "dense.parquet", ["question"])["question"]
    assert dense.str.contains("on snow|on grass|on sand|in the sky|at night").sum() == 1
    samples, _ = read_images(folder / "samples.npy")
    assert not any(key.startswith("geneval-") for key in samples)


def test_the_model_has_the_words_of_its_world(made):
    model = load_model(made[1].checkpoint(0, "base") / "model", device="cpu", precision="no")
    text = "a purple broccoli top left , a pink tv bottom right at night"
    assert model.tokenizer.decode(model.tokenizer.encode([text])[0]) == text
