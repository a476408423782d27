import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.config.load import load_config
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_json, read_table
from hermesflow.core.images import ImageForm, read_form, read_images, write_images
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.data.worlds.questions import Question
from hermesflow.evaluation import bootstrap
from hermesflow.evaluation.metrics import COMPOSED
from hermesflow.evaluation.worlds import held_out
from hermesflow.models.backbone import new_model
from hermesflow.models.codecs import image_form
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.stages import clip, data, evaluate

SPLITS = ("understanding", "gap")


def make_world(root: Path):
    config = load_config(Path(__file__).parents[2] / "config" / "smoke.yaml")
    config = replace(
        config,
        data=replace(config.data, base_pairs=42, pairs=4, gap_pairs=21),
        evaluation=replace(
            config.evaluation,
            understanding_images=21,
            geneval_prompts=3,
            geneval_images=2,
            dense_prompts=3,
            clip_steps=1,
        ),
        sampling=replace(config.sampling, images=replace(config.sampling.images, steps=2)),
        scoring=replace(config.scoring, batch_images=8),
    )
    layout = Layout(root)
    data.run(config, layout)
    clip.run(config, layout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ShowOCodec(MagVitV2(config.image_tokenizer), config.data.image_size).save(layout.tokenizer)
    for split in SPLITS:
        ids = list(read_pairs(layout.data(split))["id"])
        codes = np.repeat(np.arange(len(ids))[:, None, None], config.num_image_tokens, axis=2)
        form = image_form(config.data.image_size, config.image_tokenizer)
        write_images(layout.seen(split), ids[::-1], codes[::-1], form)  # another order than the pairs'
    for name, seed in (("base", 0), ("pair-1", 1)):
        new_model(config, seed=seed).save(layout.checkpoint(0, name) / "model")
    return config, layout


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def evaluated(world):
    config, layout = world
    for name in ("base", "pair-1"):
        evaluate.run(config, layout, seed=0, checkpoint=name)
    return {name: layout.checkpoint(0, name) / "evaluation" for name in ("base", "pair-1")}


def test_every_figure_of_the_tables_is_there(evaluated):
    metrics = read_json(evaluated["base"] / "metrics.json")
    wanted = {"cider", "vqa", "gqa", "dpg", "fid", "clip_score", *COMPOSED}
    wanted |= {part for parts in COMPOSED.values() for part in parts}
    other = "pope/.*(precision|recall|yes_ratio)|mme/(perception|cognition)|mme/.*/accuracy.*"  # lmms-eval's
    real = re.compile(f"{other}|geneval/own_.*")  # GenEval's own prompts: of the pictures world
    wanted = {name for name in wanted if not real.match(name)} | {"gap/paper/both_right", "gap/same-judge/both_right"}
    assert set(metrics) == {name for name in wanted if not name.startswith("gap/self/")}  # an independent judge reads
    assert all(np.isfinite(value) for value in metrics.values())


def test_an_untrained_model_hardly_draws_what_it_should(evaluated):
    metrics = read_json(evaluated["base"] / "metrics.json")
    assert metrics["geneval/overall"] < 0.2
    assert metrics["fid"] > 0


def test_raw_rows_add_up_to_the_figures(evaluated):
    folder = evaluated["base"]
    metrics = read_json(folder / "metrics.json")
    answers = read_table(folder / "answers.parquet", ["benchmark", "right"])
    assert metrics["vqa"] == pytest.approx(answers.loc[answers["benchmark"] == "vqa", "right"].mean())
    images = read_table(folder / "images.parquet", ["kind", "accepted"])
    kinds = images.groupby("kind")["accepted"].mean()
    assert metrics["geneval/overall"] == pytest.approx(kinds.drop("dense").mean())
    gap = read_table(folder / "gap.parquet", ["understanding_same_judge", "generation"])
    own = gap["understanding_same_judge"].mean() - gap["generation"].mean()
    assert metrics["gap/same-judge/gap"] == pytest.approx(own)
    both = (gap["understanding_same_judge"] & gap["generation"]).mean()
    assert metrics["gap/same-judge/both_right"] == pytest.approx(both)
    assert metrics["cider"] == pytest.approx(read_table(folder / "captions.parquet", ["cider"])["cider"].mean())


def test_checkpoints_are_compared_on_the_same_units(evaluated):
    table = bootstrap.summarise({n: {0: f} for n, f in evaluated.items()}, resamples=20, confidence=0.95)
    assert set(table["checkpoint"]) == {"base", "pair-1"}
    assert table.loc[table["checkpoint"] == "pair-1", "delta"].notna().all()
    items = table[table["checkpoint"] == "base"].set_index("metric")["items"]
    assert items["gap/paper/gap"] == items["gap/paper/both_right"] == 19  # captions of 21 pairs
    assert items["fid"] == 24 and items["geneval/counting"] == 3 and items["dpg"] == 3


def test_samples_are_the_same_prompts_for_all_checkpoints(world, evaluated):
    config, layout = world
    ids, codes = read_images(evaluated["base"] / "samples.npy")
    assert ids == read_images(evaluated["pair-1"] / "samples.npy")[0]
    assert set(ids) <= set(read_pairs(layout.data("prompts"))["id"])
    assert codes.shape == (14, 1, config.num_image_tokens)  # two of each of seven kinds


def test_same_seed_same_bytes(world, evaluated):
    config, layout = world
    before = {path.name: path.read_bytes() for path in evaluated["base"].iterdir()}
    evaluate.run(config, layout, seed=0, checkpoint="base")
    assert {path.name: path.read_bytes() for path in evaluated["base"].iterdir()} == before
    evaluate.run(config, layout, seed=0, checkpoint="pair-1")
    assert before["answers.parquet"] != (evaluated["pair-1"] / "answers.parquet").read_bytes()


class Oracle:
    """Sees, answers, describes and draws without fault; image codes are row numbers of its pictures."""

    caption_prompt, naming = "describe the image", nullcontext
    seen = generated = ImageForm("codes", (36,), "uint16")

    def is_cut(self, prompts):
        return [False] * len(prompts)

    def __init__(self, layout):
        pairs = {split: read_pairs(layout.data(split)) for split in (*SPLITS, "prompts")}
        self.real = {split: images_of(rows) for split, rows in pairs.items()}
        self.captions = {split: list(rows["caption"]) for split, rows in pairs.items()}
        self.drawable = {}
        for split, captions in self.captions.items():
            self.drawable |= dict(zip(captions, self.real[split], strict=True))
        self.names = list(self.drawable)
        self.split = ""

    def free_answers(self, model, codes, owners, questions, *, max_answer_tokens):
        images = self.real[self.split][codes[owners, 0].numpy()]
        return [
            str(WORLD.answer(WORLD.read_images(image[None])[0], Question(q, (), "", "")))
            for image, q in zip(images, questions, strict=True)
        ]

    def sample_texts(self, model, codes, owners, prompts, **_):
        return [self.captions[self.split][int(codes[owner, 0])] for owner in owners]

    def generate_images(self, captions, **_):
        return torch.tensor([[self.names.index(caption)] * 36 for caption in captions])

    def to_pixels(self, codes):
        return np.stack([self.drawable[self.names[i]] for i in codes[:, 0].tolist()])


def test_a_faultless_model_gets_full_marks(world, monkeypatch):
    """Every join of image, caption, question and answer has to be right for this."""
    config, layout = world
    oracle = Oracle(layout)
    monkeypatch.setattr(evaluate, "load_model", lambda folder, device, precision: oracle)
    monkeypatch.setattr(evaluate, "load_codec", lambda folder, device: oracle)
    monkeypatch.setattr(held_out, "free_answers", oracle.free_answers)
    monkeypatch.setattr(evaluate, "sample_texts", oracle.sample_texts)
    for step, split in (("_understand", "understanding"), ("_ask_gap", "gap")):
        own = getattr(evaluate, step)

        def on_split(*args, own=own, split=split):
            oracle.split = split
            return own(*args)

        monkeypatch.setattr(evaluate, step, on_split)
    weights = layout.checkpoint(0, "base") / "model" / "model.safetensors"
    target = layout.checkpoint(5, "oracle") / "model" / "model.safetensors"
    target.parent.mkdir(parents=True)
    target.write_bytes(weights.read_bytes())
    evaluate.run(config, layout, seed=5, checkpoint="oracle")
    metrics = read_json(layout.checkpoint(5, "oracle") / "evaluation" / "metrics.json")
    for name in ("vqa", "gqa", "dpg", "geneval/overall", "pope/accuracy", "pope/f1"):
        assert metrics[name] == pytest.approx(1), name
    for protocol in ("paper", "same-judge"):
        assert metrics[f"gap/{protocol}/understanding"] == metrics[f"gap/{protocol}/generation"] == 1
    assert metrics["mme/total"] == pytest.approx(800)
    captions = pd.read_parquet(layout.checkpoint(5, "oracle") / "evaluation" / "captions.parquet")
    assert (captions["caption"] == captions["reference"]).all()
    assert metrics["fid"] < read_json(layout.checkpoint(0, "base") / "evaluation" / "metrics.json")["fid"] / 5


def test_tokens_of_other_pairs_are_refused(tmp_path, world):
    _, layout = world
    ids, codes = read_images(layout.seen("gap"))
    other = Layout(tmp_path)
    other.data("gap").parent.mkdir(parents=True)
    other.data("gap").write_bytes(layout.data("gap").read_bytes())
    write_images(other.seen("gap"), ["stranger", *ids[1:]], codes, read_form(layout.seen("gap")))
    with pytest.raises(ArtifactError, match="gap"):
        held_out.read_split(other, "gap")
