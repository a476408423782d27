import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Checkpoint
from hermesflow.config.tree import reference_of
from hermesflow.core.errors import ArtifactError, ConfigError, DataError, NotFiniteError
from hermesflow.core.files import Layout, read_json, read_table, read_weights, write_json, write_weights
from hermesflow.models.backbone import load_model
from hermesflow.stages import prefer, train
from hermesflow.stages.reference import load_pairs
from hermesflow.tracking import runs
from hermesflow.training.distributed import check_training, micro_batches, new_accelerator
from hermesflow.training.logps import Logps, PairLogps, ReferenceTable, chosen_tokens
from hermesflow.training.pair_dpo import learning_rate, step_loss
from hermesflow.training.pairs import HomologousPairs
from hermesflow.training.state import StateFolder
from tests.support.pair_world import make_candidates, make_world, pairs_of, score_reference, small_config, training
from tests.support.poison import poisoned_gradient

LN2 = math.log(2)
CHECKPOINT = "pair-1"


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch):
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Base model, candidates and the preferences of the checkpoints that grow from it."""
    layout = make_world(tmp_path_factory.mktemp("world") / "results", small_config())
    for checkpoint in (CHECKPOINT, "und-1", "gen-1"):
        prefer.run(small_config(), layout, seed=0, checkpoint=checkpoint)
    return layout.root


@pytest.fixture
def layout(world, tmp_path) -> Layout:
    return Layout(Path(shutil.copytree(world, tmp_path / "results")))


def trained(config: Config, layout: Layout, checkpoint: str = CHECKPOINT) -> pd.DataFrame:
    """Run both stages; the history."""
    score_reference(config, layout, checkpoint)
    train.run(config, layout, seed=0, checkpoint=checkpoint)
    return pd.read_csv(model_folder(layout, checkpoint) / "history.csv")


def model_folder(layout: Layout, checkpoint: str = CHECKPOINT) -> Path:
    return layout.checkpoint(0, checkpoint) / "model"


@pytest.mark.parametrize(("checkpoint", "first_loss"), [("pair-1", 2 * LN2), ("und-1", LN2), ("gen-1", LN2)])
def test_step_1_is_ln_2_per_term_and_then_the_loss_falls(layout, checkpoint, first_loss):
    history = trained(small_config(steps=30, learning_rate=3e-3), layout, checkpoint)
    first = history.iloc[0]
    assert first["loss"] == pytest.approx(first_loss, abs=1e-6)
    assert first["loss/t2i"] == pytest.approx(LN2, abs=1e-6)
    assert first["loss/mmu"] == pytest.approx(LN2, abs=1e-6)
    assert first["rewards/margins/t2i"] == first["rewards/margins/mmu"] == 0.0
    assert history["step"].tolist() == list(range(1, 31))
    assert history["loss"].iloc[-3:].mean() < 0.7 * first_loss
    if checkpoint != "gen-1":
        assert history["rewards/accuracies/mmu"].iloc[-1] == 1.0
    if checkpoint != "und-1":
        assert history["rewards/margins/t2i"].iloc[-1] > 0.3


def test_weights_move_and_the_parent_stays(layout):
    parent = layout.checkpoint(0, "base") / "model" / "model.safetensors"
    before = parent.read_bytes()
    trained(small_config(), layout)
    assert parent.read_bytes() == before
    own, base = read_weights(model_folder(layout) / "model.safetensors"), read_weights(parent)
    assert own.keys() == base.keys()
    assert not torch.equal(own["showo.lm_head.weight"], base["showo.lm_head.weight"])
    load_model(model_folder(layout), device="cpu")


def test_same_seed_twice_is_byte_identical_and_no_state_is_left(layout, tmp_path):
    for name in ("first", "second"):
        trained(small_config(), layout)
        assert not (layout.checkpoint(0, CHECKPOINT) / "state").exists()
        model_folder(layout).rename(tmp_path / name)
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name


def test_accumulated_micro_batches_equal_one_batch(layout, tmp_path):
    whole = trained(small_config(), layout)
    weights = read_weights(model_folder(layout) / "model.safetensors")
    parts = trained(small_config(micro_batch_size=2), layout)
    assert torch.allclose(
        read_weights(model_folder(layout) / "model.safetensors")["showo.lm_head.weight"],
        weights["showo.lm_head.weight"],
        atol=1e-4,
    )
    pd.testing.assert_frame_equal(whole, parts, atol=1e-3, rtol=1e-2)


def test_state_of_another_task_is_not_resumed(layout, monkeypatch):
    class Killed(Exception): ...

    def kill(metrics: dict[str, float], *, step: int) -> None:
        if step == 5:
            raise Killed

    config = small_config()
    score_reference(config, layout, CHECKPOINT)
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext(Mock(log=kill)))
    with pytest.raises(Killed):
        train.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    states = layout.checkpoint(0, CHECKPOINT) / "state"
    assert [p.name for p in states.iterdir()] == ["step-00000004"]
    (states / "unfinished-00000006").mkdir()  # killed while writing
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())
    other = small_config(beta=0.3, checkpoint_every=4)  # meets the other task's state of step 4
    train.run(other, layout, seed=0, checkpoint=CHECKPOINT)
    resumed = (model_folder(layout) / "model.safetensors").read_bytes()
    train.run(other, layout, seed=0, checkpoint=CHECKPOINT)
    assert (model_folder(layout) / "model.safetensors").read_bytes() == resumed


def test_a_sharded_state_is_not_taken_for_a_whole_one(layout):
    config = small_config()
    score_reference(config, layout, CHECKPOINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateFolder, "remove", lambda state: None)
        train.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    (file,) = (layout.checkpoint(0, CHECKPOINT) / "state").glob("*/progress.json")
    write_json(file, {**read_json(file), "sharded": True})
    with pytest.raises(ConfigError, match="was written with FSDP"):
        train.run(config, layout, seed=0, checkpoint=CHECKPOINT)


def test_reference_of_another_training_is_refused(layout):
    score_reference(small_config(batch_size=2), layout, CHECKPOINT)
    with pytest.raises(DataError, match="run stage reference again"):
        train.run(small_config(), layout, seed=0, checkpoint=CHECKPOINT)


def test_missing_inputs_are_named(layout):
    with pytest.raises(ArtifactError, match=r"base/reference/all-6\.parquet"):
        train.run(small_config(), layout, seed=0, checkpoint=CHECKPOINT)


def test_a_reference_that_is_no_number_is_refused_with_its_row(layout):
    score_reference(small_config(), layout, CHECKPOINT)
    path = layout.reference(0, "base", "all-6")
    table = pd.read_parquet(path)
    table.loc[3, "chosen_image"] = float("nan")
    table.to_parquet(path)
    with pytest.raises(ArtifactError, match=rf"all-6\.parquet: `chosen_image` is nan.*'{table['id'][3]}'"):
        train.run(small_config(), layout, seed=0, checkpoint=CHECKPOINT)


def broken_parent(layout: Layout) -> None:
    """Weights that are numbers, and logits that are not."""
    folder = layout.checkpoint(0, "base") / "model"
    weights = read_weights(folder / "model.safetensors")
    weights["showo.lm_head.weight"] *= 1e38
    write_weights(folder / "model.safetensors", weights)


def test_log_probs_of_the_reference_that_are_no_numbers_are_named_and_not_written(layout):
    broken_parent(layout)
    with pytest.raises(NotFiniteError, match=r"reference base, seed 0, precision no: a log-prob of pair `pairs-\d` in"):
        score_reference(small_config(), layout, CHECKPOINT)
    assert not layout.reference(0, "base", "all-6").exists()


@pytest.mark.parametrize("checkpoint", ["pair-1", "gen-1"])
def test_a_loss_or_a_reward_that_is_no_number_stops_before_the_step(layout, checkpoint):
    """gen-1 does not train captions: their metrics alone would be no numbers."""
    config = small_config()
    score_reference(config, layout, checkpoint)
    broken_parent(layout)
    with pytest.raises(
        NotFiniteError, match=rf"train {checkpoint}, seed 0, step 1: .* of pair `pairs-\d` in pass 0 is"
    ):
        train.run(config, layout, seed=0, checkpoint=checkpoint)
    assert not model_folder(layout, checkpoint).exists()


PLAIN = {"micro_batch_size": None, "max_grad_norm": 1.0}


@pytest.mark.parametrize(
    ("settings", "precision", "wrong", "forward"),
    [
        (PLAIN, "no", math.nan, 5),
        (PLAIN, "bf16", math.inf, 5),
        ({**PLAIN, "max_grad_norm": None}, "no", math.inf, 5),
        ({**PLAIN, "micro_batch_size": 2}, "no", math.nan, 9),
        ({**PLAIN, "micro_batch_size": 2}, "no", -math.inf, 10),
    ],
)
def test_a_gradient_that_is_no_number_stops_before_the_step_and_the_same_command_goes_on(
    layout, tmp_path, fresh_accelerate, settings, precision, wrong, forward
):
    """The loss of such a batch is finite. The step made every weight nan, and the state that was saved with them."""
    config = small_config(**settings)
    config = replace(config, runtime=replace(config.runtime, precision=precision))
    trained(config, layout)
    model_folder(layout).rename(tmp_path / "straight")
    with poisoned_gradient(forward, wrong=wrong), pytest.raises(NotFiniteError) as caught:
        train.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    text = str(caught.value)
    assert "train pair-1, seed 0, step 5: the norm of the gradients is" in text
    assert "parameter `showo." in text and f"precision is `{precision}`" in text and "same command goes on" in text
    assert [p.name for p in (layout.checkpoint(0, CHECKPOINT) / "state").iterdir()] == ["step-00000004"]
    assert not model_folder(layout).exists()
    train.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    for file in ("model.safetensors", "history.csv"):
        assert (model_folder(layout) / file).read_bytes() == (tmp_path / "straight" / file).read_bytes(), file


def test_without_max_grad_norm_nothing_is_clipped(layout):
    """The released configuration has none; gradients larger than 1 make the difference."""
    free = trained(small_config(max_grad_norm=None, weight_decay=0.0), layout)
    wide = trained(small_config(max_grad_norm=1e9, weight_decay=0.0), layout)
    tight = trained(small_config(max_grad_norm=1e-3, weight_decay=0.0), layout)
    pd.testing.assert_frame_equal(free, wide, rtol=0, atol=0)
    assert free["grad_norm"].iloc[0] == tight["grad_norm"].iloc[0] > 1e-3
    assert not free["grad_norm"].iloc[1:].equals(tight["grad_norm"].iloc[1:])


def test_a_loss_scale_that_overflows_is_lowered_and_the_step_made_again(layout, fresh_accelerate, monkeypatch):
    """fp16 starts with a scale that may be too large: the gradient overflows, and that is no fault.

    accelerate has fp16 on GPUs alone; its scaler is torch's, which has a CPU too.
    """

    def scaled(settings, *, device, precision):
        accelerator = new_accelerator(settings, device=device, precision=precision)
        accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        scalers.append(accelerator.scaler)
        return accelerator

    scalers: list = []
    config = small_config()
    plain = trained(config, layout)
    monkeypatch.setattr(train, "new_accelerator", scaled)
    train.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    history = pd.read_csv(model_folder(layout) / "history.csv")
    assert scalers[0].get_scale() < 2.0**40
    assert history["step"].tolist() == plain["step"].tolist()
    assert history["grad_norm"].notna().all()
    assert history["loss"].iloc[-1] == pytest.approx(plain["loss"].iloc[-1], rel=0.05)
    fresh_accelerate()
    with poisoned_gradient(1), pytest.raises(NotFiniteError, match="precision is `fp16`"):
        monkeypatch.setattr(torch.amp.GradScaler, "get_scale", lambda self: 1.0)  # nothing left to lower
        train.run(config, layout, seed=0, checkpoint=CHECKPOINT)


def test_order_is_a_new_permutation_in_every_pass_and_wraps_inside_a_batch(layout):
    pairs = pairs_of(layout, CHECKPOINT)
    n = len(pairs)
    rows = pairs.rows(3 * n - 2)
    assert len(rows) == 3 * n - 2
    assert rows[: n + 2] == pairs.rows(n + 2)  # a longer training starts like a shorter one
    passes = [[i for i, p in rows if p == k] for k in range(3)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(pairs.pass_order(2))
    assert passes[0] != passes[1] and len(passes[2]) == n - 2


def test_order_does_not_depend_on_the_order_of_the_files(layout):
    path = layout.checkpoint(0, CHECKPOINT) / "preferences" / "preferences.parquet"
    before = pairs_of(layout, CHECKPOINT).rows(10)
    pd.read_parquet(path)[::-1].to_parquet(path)
    assert pairs_of(layout, CHECKPOINT).rows(10) == before
    assert pairs_of(layout, "und-1").rows(10) == before
    other = HomologousPairs(pd.read_parquet(path), **_sources(layout), seed=1, iteration=1)
    assert other.rows(10) != before


def _sources(layout: Layout) -> dict:
    pairs = pairs_of(layout, CHECKPOINT)
    return {"images": pairs._images, "captions": pairs._captions, "seen": pairs._seen, "noise": pairs._noise}


class Process:
    """Stands for an accelerator of one of several processes."""

    def __init__(self, process_index: int, num_processes: int) -> None:
        self.process_index, self.num_processes = process_index, num_processes


@pytest.mark.parametrize(("micro_batch_size", "processes"), [(None, 1), (None, 2), (2, 1), (2, 2), (2, 4), (1, 4)])
def test_micro_batches_hold_the_same_whoever_works_on_them(micro_batch_size, processes):
    rows = [(f"p{k}", 0) for k in range(24)]
    settings = training(batch_size=8, micro_batch_size=micro_batch_size)
    shares = [[list(m) for m in micro_batches(rows, 2, settings, Process(k, processes))] for k in range(processes)]
    in_turn = [micro for turn in zip(*shares, strict=True) for micro in turn]
    assert {len(micro) for micro in in_turn} == {micro_batch_size or 8 // processes}
    assert [row for micro in in_turn for row in micro] == rows[8:16]


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    settings = training(steps=100, warmup_steps=9, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(1, 101)]
    assert rates[:9] == pytest.approx([k / 10 for k in range(1, 10)])
    assert rates[9] == max(rates) == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_batches_that_cannot_be_divided_are_refused():
    check_training(training(batch_size=8, micro_batch_size=2), processes=2)
    for micro_batch_size, processes, wanted in ((3, 2, 6), (8, 2, 16), (None, 3, 6), (None, 9, 9)):
        with pytest.raises(ConfigError, match=f"multiple of {wanted}"):
            check_training(training(batch_size=8, micro_batch_size=micro_batch_size), processes=processes)


def test_metrics_are_per_pair_and_carry_no_gradient():
    policy = Logps(*(torch.tensor([-1.0, -2.0], requires_grad=True) for _ in range(4)))
    frozen = Logps(*(torch.tensor([-2.0, -2.0]), torch.tensor([-1.0, -3.0])) * 2)
    loss, metrics = step_loss(policy, frozen, objective="pair", training=training())
    assert loss.shape == (2,) and loss.requires_grad
    assert all(values.shape == (2,) and not values.requires_grad for values in metrics.values())
    assert metrics["rewards/chosen/mmu"].tolist() == pytest.approx([0.2, 0.0])
    assert metrics["rewards/rejected/mmu"].tolist() == pytest.approx([0.0, 0.2])
    assert metrics["rewards/margins/t2i"].tolist() == pytest.approx([0.2, -0.2])
    assert metrics["rewards/accuracies/t2i"].tolist() == [1.0, 0.0]


def test_likelihood_of_chosen_adds_its_weight_and_pulls_chosen_up_alone():
    policy = Logps(*(torch.tensor([-1.0, -2.0], requires_grad=True) for _ in range(4)))
    plain, _ = step_loss(policy, policy, objective="pair", training=training())
    weighted, metrics = step_loss(policy, policy, objective="pair", training=training(chosen_nll_weight=0.5))
    assert (weighted - plain).tolist() == pytest.approx([1.0, 2.0])
    assert metrics["loss"].tolist() == pytest.approx(weighted.tolist())
    (weighted - plain).sum().backward()
    assert policy.chosen_image.grad.tolist() == policy.chosen_caption.grad.tolist() == [-0.5, -0.5]
    assert not policy.rejected_image.grad.any() and not policy.rejected_caption.grad.any()


def test_best_of_n_fine_tuning_is_the_likelihood_of_chosen_whatever_the_reference_and_the_rejected(layout):
    chosen, rejected = (torch.tensor([x, 2 * x], requires_grad=True) for x in (-1.0, -5.0))
    policy = Logps(chosen, rejected, 10 * chosen, rejected)
    settings = training(chosen_nll_weight=7.0, caption_weight=2.0)  # the first is not read
    for reference in (policy, Logps(*(torch.tensor([-2.0, -9.0]) for _ in range(4)))):
        loss, metrics = step_loss(policy, reference, objective="chosen", training=settings)
        assert loss.tolist() == metrics["loss"].tolist() == [12, 24]  # 2 * 1 + 10, 2 * 2 + 20
    loss.sum().backward()
    assert chosen.grad.tolist() == [-12, -12] and (rejected.grad is None or not rejected.grad.any())


def test_best_of_n_fine_tuning_meets_the_pairs_order_and_noise_of_pair_dpo(layout, tmp_path):
    config = small_config(steps=30, learning_rate=3e-3)
    tree = {**config.checkpoints, "sft-1": Checkpoint(parent="base", objective="chosen")}
    config = replace(config, checkpoints=tree)
    prefer.run(config, layout, seed=0, checkpoint="sft-1")
    assert reference_of(config, "sft-1") == reference_of(config, CHECKPOINT)
    history = trained(config, layout, "sft-1")
    pairs, model = pairs_of(layout, CHECKPOINT), load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    batch = pairs.batch(pairs.rows(4), device="cpu")
    with torch.no_grad():
        first = PairLogps(model, "pair").eval()(batch)
    assert history["loss"].iloc[0] == pytest.approx(
        -(first.chosen_caption + first.chosen_image).mean().item(), rel=1e-5
    )
    assert (history[["rewards/chosen/mmu", "rewards/chosen/t2i"]].iloc[-3:] > 0).all().all()  # likelier than before


def test_likelihood_per_token_is_divided_by_the_scored_tokens_of_each_chosen_answer():
    logps = Logps(*(torch.tensor(x) for x in ([-6.0, -8.0], [-1.0, -1.0], [-20.0, -9.0], [-1.0, -1.0])))
    tokens = torch.tensor([[3.0, 2.0], [10.0, 4.5]])
    own = {"objective": "chosen", "training": training()}
    assert step_loss(logps, logps, **own)[0].tolist() == [26, 17]
    assert step_loss(logps, logps, **own, chosen_tokens=tokens)[0].tolist() == [2 + 2, 4 + 2]
    own = {"objective": "pair", "training": training(chosen_nll_weight=0.5)}
    per_token, _ = step_loss(logps, logps, **own, chosen_tokens=tokens)
    assert per_token.tolist() == pytest.approx([2 * LN2 + 2, 2 * LN2 + 3])  # the preference stays a sum


def test_scored_tokens_are_a_caption_with_its_end_unless_it_was_cut_and_the_masked_image_tokens(layout):
    pairs, model = pairs_of(layout), load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    batch = pairs.batch(pairs.rows(3), device="cpu")
    captions = ["a red circle", (5, 6), "a blue square and a red cross"]  # (5, 6): as sampled, without an end
    found = chosen_tokens(model, replace(batch, chosen_captions=captions))
    assert found[0].tolist() == [4, 2, 8]
    assert found[1].tolist() == batch.noise.sum(dim=1).tolist() and 0 < found[1].min() < found[1].max()


def test_training_divides_where_the_config_says_so(layout):
    tree = {"sft-1": Checkpoint(parent="base", objective="chosen", chosen_nll_reduction="token_mean")}
    config = replace(small_config(micro_batch_size=2), checkpoints=tree)
    prefer.run(config, layout, seed=0, checkpoint="sft-1")
    history = trained(config, layout, "sft-1")
    pairs, model = pairs_of(layout), load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    batch = pairs.batch(pairs.rows(4), device="cpu")
    with torch.no_grad():
        logps, tokens = PairLogps(model, "pair").eval()(batch), chosen_tokens(model, batch)
    wanted = -(logps.chosen_caption / tokens[0] + logps.chosen_image / tokens[1]).mean()
    assert history["loss"].iloc[0] == pytest.approx(wanted.item(), rel=1e-5)


def test_a_second_iteration_with_fresh_rejected_answers_has_a_reference_of_its_own(layout):
    config = small_config()
    tree = {name: Checkpoint(parent=CHECKPOINT, objective="pair", rejected=name) for name in ("previous", "fresh")}
    config = replace(config, checkpoints={CHECKPOINT: config.checkpoints[CHECKPOINT], **tree})
    trained(config, layout)
    ids = [f"pairs-{k}" for k in range(7)]
    make_candidates(layout.checkpoint(0, CHECKPOINT), ids, n=4, config=config, seed=9)
    for name in tree:
        prefer.run(config, layout, seed=0, checkpoint=name)
        assert trained(config, layout, name)["loss"].iloc[0] == pytest.approx(2 * LN2, abs=1e-6)
    found = sorted(path.name for path in (layout.checkpoint(0, CHECKPOINT) / "reference").iterdir())
    assert found == ["all-6-fresh.parquet", "all-6.parquet"]


def test_a_checkpoint_s_masks_are_those_of_its_reference(layout):
    tree = {CHECKPOINT: Checkpoint(parent="base", objective="pair", mask_ratios=(0.9, 1.0))}
    config = replace(small_config(), checkpoints=tree)
    assert reference_of(config, CHECKPOINT).variant == "all-6-0.9to1.0"
    history = trained(config, layout)
    assert layout.reference(0, "base", "all-6-0.9to1.0").exists()
    assert history["loss"].iloc[0] == pytest.approx(2 * LN2, abs=1e-6)  # else policy and reference differ at step 1
    model = load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    pairs = load_pairs(config, layout, model, seed=0, checkpoint=CHECKPOINT)
    masks = pairs.batch(pairs.rows(7), device="cpu").noise
    assert masks.sum(dim=1).min() >= round(0.9 * masks.shape[1])
    plain = pairs_of(layout)
    assert plain.batch(plain.rows(7), device="cpu").noise.sum() < masks.sum()


def of_kinds(layout, captions="", images=""):
    """Six pairs a to f of CHECKPOINT; those named have no pair of captions, or of images."""
    known = pairs_of(layout, CHECKPOINT)
    ids = known.pass_order(0)[:6]
    table = read_table(layout.checkpoint(0, CHECKPOINT) / "preferences" / "preferences.parquet", ["id"])
    table = table.set_index("id").loc[ids].reset_index()
    for letters, column in ((captions, "chosen_caption"), (images, "chosen_image_score")):
        table.loc[["abcdef".index(letter) for letter in letters], column] = None
    return ids, HomologousPairs(table, **_sources(layout), seed=0, iteration=1)


def test_a_pair_that_is_not_there_weighs_nothing_and_the_others_make_up_the_mean(layout):
    (a, b, c, d, *_), pairs = of_kinds(layout, captions="abc", images="d")
    step = [(pair_id, 0) for pair_id in (a, b, c, d)]
    weights = pairs.weights(step, step, device="cpu")
    assert weights.tolist() == [[0, 0, 0, 4], pytest.approx([4 / 3, 4 / 3, 4 / 3, 0])]
    assert torch.equal(torch.cat([pairs.weights(step[k : k + 2], step, device="cpu") for k in (0, 2)], dim=1), weights)
    assert pairs.weights(step[:3], step[:3], device="cpu").tolist() == [[0, 0, 0], [1, 1, 1]]  # not 3 / 0
    assert pairs_of(layout).weights(step, step, device="cpu").tolist() == [[1] * 4] * 2


def test_the_loss_and_every_curve_are_means_over_the_pairs_that_are_there():
    policy = Logps(
        *(torch.tensor(x, requires_grad=True) for x in ([-1.0, -8.0], [-3.0, -9.0], [-1.0, -2.0], [-2.0, -2.0]))
    )
    frozen = Logps(*(torch.zeros(2) for _ in range(4)))
    weights = torch.tensor([[2.0, 0.0], [1.0, 1.0]])  # the second pair has no captions
    settings = training(beta=1.0, chosen_nll_weight=0.5)
    loss, metrics = step_loss(policy, frozen, objective="pair", training=settings, weights=weights)
    sigma = [math.log(1 + math.exp(-delta)) for delta in (2, 1, 0)]
    # captions: the first alone; images: both; likelihood likewise
    assert loss.mean().item() == pytest.approx(sigma[0] + (sigma[1] + sigma[2]) / 2 + 0.5 * (1 + (1 + 2) / 2))
    means = {name: values.mean().item() for name, values in metrics.items()}
    assert means["rewards/margins/mmu"] == 2 and means["rewards/margins/t2i"] == 0.5
    assert means["rewards/accuracies/mmu"] == 1 and means["rewards/accuracies/t2i"] == 0.5
    assert means["rewards/chosen/mmu"] == -1 and means["rewards/rejected/t2i"] == -2
    assert means["loss/mmu"] == pytest.approx(sigma[0])
    loss.mean().backward()
    assert policy.chosen_caption.grad[1] == policy.rejected_caption.grad[1] == 0


@pytest.fixture
def some_have_one_kind(layout):
    """Two ids whose captions tie, three whose images do."""
    for kind, tied in (("captions", (0, 1)), ("images", (2, 3, 4))):
        path = layout.checkpoint(0, "base") / "scores" / f"{kind}.parquet"
        table = pd.read_parquet(path)
        table.loc[table["id"].isin([f"pairs-{k}" for k in tied]), "score"] = 0.5
        table.to_parquet(path)
    config = small_config(steps=12, learning_rate=3e-3)
    return replace(config, preferences=replace(config.preferences, pairs="any"))


def test_ids_with_one_kind_of_pair_are_trained_on_where_any_are_asked_for(layout, some_have_one_kind, tmp_path):
    config = some_have_one_kind
    prefer.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    pairs = pairs_of(layout)
    assert len(pairs) == 7
    whole = trained(config, layout)
    assert whole["loss"].iloc[0] == pytest.approx(2 * LN2, abs=1e-6)
    assert whole["loss"].iloc[-3:].mean() < whole["loss"].iloc[0]
    assert whole["rewards/accuracies/mmu"].iloc[-1] == 1
    own = replace(config, training=replace(config.training, micro_batch_size=1))
    parts = trained(own, layout)  # each micro batch has one pair, of which a kind may be missing
    pd.testing.assert_frame_equal(whole, parts, atol=1e-3, rtol=1e-2)
    for objective in ("understanding", "generation", "chosen"):
        one = replace(config, checkpoints={CHECKPOINT: Checkpoint(parent="base", objective=objective)})
        assert trained(one, layout)["loss"].notna().all()


def test_a_step_without_a_kind_of_pair_has_no_curve_of_it(layout, some_have_one_kind):
    """A state is saved in between: JSON has no nan."""
    path = layout.checkpoint(0, "base") / "scores" / "images.parquet"
    table = pd.read_parquet(path)
    table.loc[table["id"] != "pairs-0", "score"] = 0.5
    table.to_parquet(path)
    config = replace(some_have_one_kind, training=replace(some_have_one_kind.training, batch_size=1))
    prefer.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    history = trained(config, layout)
    images = [pair_id == "pairs-0" for pair_id, _ in pairs_of(layout).rows(12)]
    assert history["loss/t2i"].notna().tolist() == images and any(images)
    assert history["rewards/margins/mmu"].notna().tolist() == [not image for image in images]  # its captions tie
    assert history[["loss", "lr", "grad_norm"]].notna().all().all()


def test_no_pair_of_images_at_all_is_a_training_of_captions(layout, some_have_one_kind):
    path = layout.checkpoint(0, "base") / "scores" / "images.parquet"
    pd.read_parquet(path).assign(score=0.5).to_parquet(path)
    prefer.run(some_have_one_kind, layout, seed=0, checkpoint=CHECKPOINT)
    history = trained(some_have_one_kind, layout)
    assert history["loss"].iloc[0] == pytest.approx(LN2, abs=1e-6) and history["loss/t2i"].isna().all()


def test_untrained_skill_is_scored_without_gradient(layout):
    pairs = pairs_of(layout, CHECKPOINT)
    model = load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    batch = pairs.batch(pairs.rows(2), device="cpu")
    for objective, learns in (("pair", (True, True)), ("understanding", (True, False)), ("generation", (False, True))):
        logps = PairLogps(model, objective)(batch)
        assert (logps.chosen_caption.requires_grad, logps.rejected_image.requires_grad) == learns


def test_reference_is_joined_by_id_and_pass():
    table = pd.DataFrame([("a", 0, -1.0, -2.0, -3.0, -4.0), ("a", 1, -1.0, -2.0, -5.0, -6.0)])
    table.columns = ["id", "pass", *Logps._fields]
    own = ReferenceTable(table[::-1])
    assert [x.item() for x in own.lookup([("a", 1)], torch.device("cpu"))] == [-1.0, -2.0, -5.0, -6.0]
    with pytest.raises(DataError, match="pass 2"):
        own.lookup([("a", 2)], torch.device("cpu"))


def test_accelerator_refuses_what_cannot_be_meant():
    with pytest.raises(ConfigError, match="multiple of 3"):
        new_accelerator(training(micro_batch_size=3), device="cpu", precision="no")


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps what it was first told for as long as the process lives."""

    def forget():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield forget
    forget()


def test_sharding_on_the_cpu_is_refused_instead_of_left_out(monkeypatch, fresh_accelerate):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ConfigError, match="accelerate does on GPUs alone"):
        new_accelerator(training(), device="cpu", precision="no")


def test_bf16_reference_agrees_with_the_policy_too(layout, fresh_accelerate):
    config = small_config()
    first = trained(replace(config, runtime=replace(config.runtime, precision="bf16")), layout).iloc[0]
    assert first["loss"] == pytest.approx(2 * LN2, abs=1e-6)
