"""Mode `official`: each defect of the released code, switched on by name, does what the released code does."""

import json
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from hermesflow.config.experiment import load_config
from hermesflow.config.provenance import params_of
from hermesflow.config.sections import Checkpoint, Defect
from hermesflow.core.errors import ConfigError, HermesflowError
from hermesflow.core.files import Layout, read_table
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.models.showo.magvit import load_tokenizer
from hermesflow.official.images import smaller_images, smaller_pictures
from hermesflow.official.pairs import joined_by_list_index, stale_selection
from hermesflow.official.sampling import sampling_of
from hermesflow.official.training import WARMUP, dropped_prompts, spoiled_deltas, training_of
from hermesflow.report.tables import _arm
from hermesflow.selfplay.preferences import IMAGE_COLUMNS, Candidate, Threshold
from hermesflow.stages import data, prefer, reference, tokenizer, train
from hermesflow.stages.reference import load_pairs
from hermesflow.training.losses import dpo_logratios, pair_dpo_loss
from hermesflow.training.pair_dpo import PairLogps, learning_rate
from pair_world import SMOKE, make_world, small_config
from showo_golden import golden_model
from showo_golden import reference as golden
from test_golden_dpo import logps as recorded_logps

CHECKPOINT = "pair-1"
ALL = get_args(Defect)


def with_mode(config, mode):
    return replace(config, checkpoints={CHECKPOINT: Checkpoint(parent="base", objective="pair", mode=mode)})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Layout:
    layout = make_world(tmp_path_factory.mktemp("world") / "results", small_config(), pairs=9)
    prefer.run(small_config(), layout, seed=0, checkpoint=CHECKPOINT)
    return layout


# the switch


def test_paper_is_the_default_and_official_is_everything():
    config = load_config(SMOKE)
    assert config.mode == "paper" and config.defects_of("base") == frozenset()
    assert with_mode(config, "official").defects_of(CHECKPOINT) == frozenset(ALL)
    assert with_mode(config, "official").defects_of("base") == frozenset()
    assert replace(config, mode="official").defects_of("base") == frozenset(ALL)
    assert with_mode(replace(config, mode="official"), "paper").defects_of(CHECKPOINT) == frozenset()
    assert with_mode(config, ("batch_sums",)).defects_of(CHECKPOINT) == {"batch_sums"}


def test_modes_are_read_from_the_file(tmp_path):
    plain = yaml.safe_load(SMOKE.read_text())
    plain["mode"] = ["batch_sums", "string_order"]
    plain["checkpoints"]["pair-1"]["mode"] = "official"
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain))
    config = load_config(path)
    assert config.defects_of("base") == {"batch_sums", "string_order"}
    assert config.defects_of("pair-1") == frozenset(ALL)
    plain["mode"] = ["batch_summs"]
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match=r"mode.*batch_sums"):
        load_config(path)


@pytest.mark.parametrize("stage", ["sample", "prefer", "reference", "train"])
def test_a_change_of_mode_makes_its_stages_run_again(stage):
    config = small_config()
    before = json.dumps(params_of(config, stage, CHECKPOINT))
    assert json.dumps(params_of(with_mode(config, "official"), stage, CHECKPOINT)) != before
    assert json.dumps(params_of(replace(config, mode="official"), stage, CHECKPOINT)) != before


def test_base_has_no_mode_of_its_own():
    assert params_of(small_config(), "sample", "base")["mode"] == "paper"


def test_every_defect_has_its_page():
    pages = SMOKE.parents[1] / "docs" / "decisions" / "official"
    assert {page.stem for page in pages.glob("*.md")} == {*(name.replace("_", "-") for name in ALL), "README"}
    index = (pages / "README.md").read_text()
    assert all(f"[`{name}`]({name.replace('_', '-')}.md)" in index for name in ALL)


def test_tables_name_the_mode():
    config = small_config()
    assert "released" not in _arm(config, CHECKPOINT)
    assert _arm(with_mode(config, "official"), CHECKPOINT).endswith("as the released code")
    assert _arm(with_mode(config, ("batch_sums",)), CHECKPOINT).endswith("with batch sums")


# sampling and pairs


def test_cumulative_temperature():
    settings = small_config().sampling
    assert sampling_of(settings, ()) == settings
    assert sampling_of(settings, ["cumulative_temperature"]).images.temperature_schedule == "official"


def test_string_order():
    """The third folder in the order of strings, of eleven, is "10"."""
    ids = [f"pair-{k:02}" for k in range(11)]
    table = pd.DataFrame({"id": np.repeat(ids, 2), "candidate": [0, 1] * 11, "score": np.repeat(np.arange(11.0), 2)})
    found = joined_by_list_index(table)
    assert found["score"].tolist() == np.repeat([0.0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9], 2).tolist()
    assert found[["id", "candidate"]].equals(table[["id", "candidate"]])


def images(*scores):
    return [Candidate((k,), score) for k, score in enumerate(scores)]


def test_stale_candidates():
    """A refused prompt gets the images at the indices of the prompt before, however they score."""
    candidates = {
        "first": images(0.1, 0.2),  # refused, nothing before it
        "good": images(0.2, 0.9, 0.5),
        "refused": images(0.5, 0.1, 0.3),
        "tied": images(0.4, 0.4, 0.4),
    }
    found = stale_selection(candidates, {}, Threshold(min_score=0.6))
    assert {name: (p.chosen.content, p.rejected.content) for name, p in found.pairs.items()} == {
        "good": ((1,), (0,)),
        "refused": ((1,), (0,)),
        "tied": ((1,), (0,)),
    }
    assert found.pairs["refused"].chosen.score < found.pairs["refused"].rejected.score
    assert (found.counts["kept"], found.counts["written although dropped"]) == (3, 2)


def test_defective_pairs_are_written_only_where_they_are_asked_for(tmp_path):
    config = small_config()
    config = replace(config, preferences=replace(config.preferences, min_image_score=0.85))
    layout = make_world(tmp_path, config, pairs=9)
    folder = layout.checkpoint(0, CHECKPOINT) / "preferences"
    sizes = {}
    for mode in ("paper", ("stale_candidates",)):
        prefer.run(with_mode(config, mode), layout, seed=0, checkpoint=CHECKPOINT)
        table = read_table(folder / "preferences.parquet", [*IMAGE_COLUMNS])
        sizes[mode] = len(table)
        assert (table["chosen_image_score"] > 0.85).all() == (mode == "paper")
    assert sizes["paper"] < sizes[("stale_candidates",)]


# batches


def test_independent_batches(world):
    pairs = load_pairs(with_mode(small_config(), ("independent_batches",)), world, seed=0, checkpoint=CHECKPOINT)
    honest = load_pairs(small_config(), world, seed=0, checkpoint=CHECKPOINT)
    rows = honest.rows(len(honest))
    other, own = pairs.batch(rows, device="cpu"), honest.batch(rows, device="cpu")
    assert other.chosen_captions == own.chosen_captions and torch.equal(other.codes, own.codes)
    assert other.captions != own.captions and sorted(other.captions) == sorted(own.captions)
    place = [own.captions.index(caption) for caption in other.captions]
    if len(set(own.captions)) == len(own.captions):
        assert torch.equal(other.chosen_codes, own.chosen_codes[place])
        assert torch.equal(other.rejected_codes, own.rejected_codes[place])
    again = load_pairs(with_mode(small_config(), ("independent_batches",)), world, seed=0, checkpoint=CHECKPOINT)
    assert again.batch(rows[3:5], device="cpu").captions == other.captions[3:5]


def test_prompt_dropout(world):
    captions, names = ["a circle"] * 3000, [(0, 1, "prompt", f"pair-{k}", 0) for k in range(3000)]
    chosen, rejected = np.array(dropped_prompts(captions, names)).reshape(2, 3000) == ""
    for side in (chosen, rejected):
        assert 0.08 < side.mean() < 0.12
    assert 0.005 < (chosen & rejected).mean() < 0.016  # apart from each other
    pairs = load_pairs(with_mode(small_config(), ("prompt_dropout",)), world, seed=0, checkpoint=CHECKPOINT)
    batch = pairs.batch(pairs.rows(200), device="cpu")
    assert {"", *batch.captions} == set(batch.prompts) and len(batch.prompts) == 400
    honest = load_pairs(small_config(), world, seed=0, checkpoint=CHECKPOINT)
    assert honest.batch(honest.rows(200), device="cpu").prompts == batch.captions * 2


# the step


@torch.no_grad()
def test_boundary_tokens():
    """The image term of the golden rows: masked places and both boundary tokens."""
    tensors, facts = golden()
    model = golden_model()
    ids, labels = (tensors[f"dpo_bs1.{n}_win"][:1, 33:] for n in ("input_ids", "labels"))
    codes = torch.where(labels == -100, ids, labels)[:, 1:-1] - 522
    masked = ids[:, 1:-1] == model.ids.mask
    found = model.image_logps(["raccoon"], codes, masked, boundaries=True)
    assert found.item() == pytest.approx(facts["dpo_bs1.fixed"]["terms"]["ref_win_t2i"], rel=1e-5)
    assert model.image_logps(["raccoon"], codes, masked).item() > found.item() + 1


def test_the_scorer_counts_boundary_tokens_for_reference_and_policy(world):
    pairs = load_pairs(with_mode(small_config(), ("boundary_tokens",)), world, seed=0, checkpoint=CHECKPOINT)
    batch = pairs.batch(pairs.rows(2), device="cpu")
    model = reference.load_model(world.checkpoint(0, "base") / "model", device="cpu")
    with torch.no_grad():
        plain, more = PairLogps(model, "pair").eval()(batch), PairLogps(model, "pair", pairs.defects).eval()(batch)
    assert (more.chosen_image < plain.chosen_image).all()
    assert torch.equal(more.chosen_caption, plain.chosen_caption)


def test_image_rows_in_caption_term_gives_the_recorded_official_loss_and_gradient():
    """Golden `official`, one pair: terms, loss and gradient norm of the released code's own step."""
    tensors, facts = golden()
    official, beta = facts["dpo_bs1.official"], facts["dpo.beta"]
    frozen, policy = golden_model(), golden_model()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.001)
    logps = {}
    for model, name in ((frozen, "ref_"), (policy, "")):
        for side in ("win", "lose"):
            ids, labels = (tensors[f"dpo_bs1.{n}_{side}"] for n in ("input_ids", "labels"))
            codes = torch.where(labels == -100, ids, labels)[:1, 34:-1] - 522
            row = (["raccoon"], codes, ids[:1, 34:-1] == model.ids.mask)
            caption = recorded_logps(model, 1, side, "mmu")
            with torch.set_grad_enabled(not name):
                t2i = model.image_logps(*row, boundaries=True)
                mmu = caption + model.image_row_logps(*row)
            for kind, found in (("t2i", t2i), ("mmu", mmu)):
                assert found.item() == pytest.approx(official["terms"][f"{name}{side}_{kind}"], rel=1e-5)
                logps[f"{name}{side}_{kind}"] = found
    terms = ("", "ref_")
    mmu, t2i = (
        dpo_logratios(*(logps[f"{name}{side}_{kind}"] for name in terms for side in ("win", "lose")))
        for kind in ("mmu", "t2i")
    )
    loss = pair_dpo_loss(mmu, t2i, beta=beta, objective="pair", caption_weight=1.0, image_weight=1.0).sum()
    assert loss.item() == pytest.approx(official["loss"], abs=1e-4)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(official["grad_norm"], rel=1e-3)


def test_the_scorer_adds_image_rows_to_captions(world):
    pairs = load_pairs(with_mode(small_config(), ("image_rows_in_caption_term",)), world, seed=0, checkpoint=CHECKPOINT)
    batch = pairs.batch(pairs.rows(2), device="cpu")
    model = reference.load_model(world.checkpoint(0, "base") / "model", device="cpu")
    with torch.no_grad():
        plain, more = PairLogps(model, "pair").eval()(batch), PairLogps(model, "pair", pairs.defects).eval()(batch)
        rows = model.image_row_logps(batch.captions, batch.chosen_codes, batch.masked)
    assert torch.allclose(more.chosen_caption - plain.chosen_caption, rows, atol=1e-3)
    assert torch.equal(more.chosen_image, plain.chosen_image)


def test_batch_sums():
    """One sigmoid for all pairs of a process: value and gradient."""
    deltas = torch.tensor([4.0, -4.0], requires_grad=True)
    mmu, _ = spoiled_deltas(deltas, deltas, ["batch_sums"], beta=0.5)
    loss = pair_dpo_loss(mmu, mmu, beta=0.5, objective="understanding", caption_weight=1.0, image_weight=1.0).mean()
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert deltas.grad.tolist() == pytest.approx([-0.25, -0.25])


def test_unstable_sigmoid():
    deltas = torch.tensor([-5000.0, 1.0])
    kwargs = {"beta": 0.2, "objective": "understanding", "caption_weight": 1.0, "image_weight": 1.0}
    assert pair_dpo_loss(deltas, deltas, **kwargs)[0].item() == pytest.approx(1000)
    loss = pair_dpo_loss(*spoiled_deltas(deltas, deltas, ["unstable_sigmoid"], beta=0.2), **kwargs)
    assert torch.equal(loss.isinf(), torch.log(torch.sigmoid(0.2 * deltas)).isinf())
    assert loss[1].item() == pytest.approx(math.log1p(math.exp(-0.2)))


def test_endless_warmup():
    training = small_config(steps=300).training
    assert training_of(training, ()) == training
    endless = training_of(training, ["endless_warmup"])
    rates = [learning_rate(step, endless) for step in range(1, 301)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(training.learning_rate / WARMUP, rel=0.01)


# all of them, through the stages


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A world with real images and an image tokenizer, for the defect that needs both."""
    config = small_config()
    config = replace(config, tokenizer_training=replace(config.tokenizer_training, steps=5))
    config = replace(config, data=replace(config.data, pairs=9, base_pairs=20))
    layout = Layout(tmp_path_factory.mktemp("drawn") / "results")
    data.run(config, layout)
    tokenizer.run(config, layout)
    ids = list(read_pairs(layout.data("pairs"))["id"])
    kept = layout.data("pairs").read_bytes()
    make_world(layout.root, config, pairs=9, ids=ids)
    layout.data("pairs").write_bytes(kept)
    return config, layout


def test_smaller_images(drawn):
    config, layout = drawn
    model = load_tokenizer(layout.tokenizer, device="cpu").eval()
    pairs = read_pairs(layout.data("pairs"))
    picture = images_of(pairs.select([0]))
    whole = model.encode(torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 127.5 - 1)[0]
    small = smaller_pictures(picture, model, device="cpu")[0]
    assert len(small) == len(whole) // 4
    assert len(smaller_images([whole.tolist()], model, device="cpu")[0]) == len(whole) // 4
    prefer.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    found = load_pairs(with_mode(config, ("smaller_images",)), layout, seed=0, checkpoint=CHECKPOINT)
    batch = found.batch(found.rows(2), device="cpu")
    assert {t.shape[1] for t in (batch.codes, batch.chosen_codes, batch.rejected_codes, batch.masked)} == {len(small)}


def test_all_defects_at_once_train(drawn):
    config, layout = drawn
    config = with_mode(config, "official")
    trained = {}
    for stage in (prefer, reference, train):
        stage.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    folder = layout.checkpoint(0, CHECKPOINT) / "model"
    trained = read_table(folder / "history.csv", ["step", "loss", "lr"])
    assert len(trained) == config.training.steps and trained["lr"].is_monotonic_increasing
    # policy and reference agree at the first step, where prompts are dropped and boundaries scored too
    assert trained["loss"][0] == pytest.approx(2 * math.log(2), abs=1e-5)
    assert json.loads((folder / "manifest.json").read_text())["config"]["defects"] == sorted(ALL)


def test_a_loss_that_overflows_ends_the_training_with_an_error(drawn):
    config, layout = drawn
    config = with_mode(config, ("unstable_sigmoid",))
    config = replace(config, training=replace(config.training, learning_rate=0.5, beta=50.0, steps=40))
    for stage in (prefer, reference):
        stage.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    with pytest.raises(HermesflowError, match="nan or infinite"):
        train.run(config, layout, seed=0, checkpoint=CHECKPOINT)
