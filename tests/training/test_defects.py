"""One regression test per known defect of the official code in pair data, Pair-DPO step, loaders and training.

The table of defects is in docs/decisions; defects of scoring and image sampling are tested with those modules.
"""

import math
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.config.sections import Checkpoint
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.core.files import Layout, read_table
from hermesflow.core.images import ImageForm, read_images, write_images
from hermesflow.models.backbone import load_model
from hermesflow.selfplay.preferences import CAPTION_COLUMNS, IMAGE_COLUMNS
from hermesflow.stages import prefer, sample, train
from hermesflow.tracking import runs
from hermesflow.training.distributed import check_training, new_accelerator
from hermesflow.training.logps import PairLogps, reference_logps
from hermesflow.training.losses import pair_dpo_loss
from hermesflow.training.pair_dpo import new_optimizer
from hermesflow.training.pairs import PairBatch
from tests.support.dpo import dpo_loss
from tests.support.pair_world import (
    SMOKE,
    environment,
    form_of,
    make_candidates,
    make_world,
    pairs_of,
    score_reference,
    small_config,
    training,
)

CHECKPOINT = "pair-1"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Layout:
    layout = make_world(tmp_path_factory.mktemp("world") / "results", small_config(), pairs=9)
    prefer.run(small_config(), layout, seed=0, checkpoint=CHECKPOINT)
    return layout


@pytest.fixture(scope="module")
def scorer(world) -> PairLogps:
    return PairLogps(load_model(world.checkpoint(0, "base") / "model", device="cpu"), "pair").eval()


def batch_of(world: Layout, size: int) -> PairBatch:
    pairs = pairs_of(world, CHECKPOINT)
    return pairs.batch(pairs.rows(size), device="cpu")


# pair data script


def test_a_filtered_prompt_is_not_written_with_the_previous_prompts_images(tmp_path):
    """The 0.6 filter guarded only the index variables: a rejected prompt got the previous prompt's images."""
    config = small_config()
    layout = make_world(tmp_path, config, pairs=9)
    config = replace(config, preferences=replace(config.preferences, min_image_score=0.85))
    prefer.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    folder = layout.checkpoint(0, CHECKPOINT) / "preferences"
    found = read_table(folder / "preferences.parquet", ["id", *IMAGE_COLUMNS]).set_index("id")
    best = pd.read_parquet(layout.checkpoint(0, "base") / "scores" / "images.parquet").groupby("id")["score"].max()
    assert 0 < len(found) < 9
    assert set(found.index) == set(best.index[best > 0.85])
    ids, codes = read_images(layout.checkpoint(0, "base") / "candidates" / "images.npy")
    kept_ids, kept = read_images(folder / "images.npy")
    assert set(kept_ids) == set(found.index)
    for pair_id, sides in zip(kept_ids, kept.tolist(), strict=True):
        own = codes[ids.index(pair_id)].tolist()
        assert sides[0] in own and sides[1] in own


def test_pair_data_is_whole_and_readable_as_written(world):
    """JSON was appended object by object with trailing commas, not parseable without hand editing."""
    folder = world.checkpoint(0, CHECKPOINT) / "preferences"
    table = read_table(folder / "preferences.parquet", [*CAPTION_COLUMNS, *IMAGE_COLUMNS])
    assert table["id"].is_unique and not table.isna().any().any()
    images = ["images.json", "images.npy", "images.parquet"]
    names = ["captions.parquet", "counts.json", *images, "manifest.json", "preferences.parquet"]
    assert sorted(p.name for p in folder.iterdir()) == names


# pair DPO step


def test_the_understanding_delta_holds_no_image_rows(world, scorer):
    """The number of caption rows was never passed: the slice [-0:] put the image rows into the caption term."""
    batch = batch_of(world, 3)
    other_images = replace(batch, chosen_images=batch.rejected_images, noise=~batch.noise, captions=["a cross"] * 3)
    with torch.no_grad():
        logps, others = scorer(batch), scorer(other_images)
    assert torch.equal(logps.chosen_caption, others.chosen_caption)
    assert torch.equal(logps.rejected_caption, others.rejected_caption)
    assert not torch.equal(logps.chosen_image, others.chosen_image)


def test_log_probs_are_not_summed_over_the_batch_before_the_sigmoid(world, scorer):
    """With a batch above 1 the official loss was one sigmoid of a sum, not per-pair DPO."""
    deltas = torch.tensor([4.0, -4.0])
    loss = pair_dpo_loss(deltas, deltas, beta=1.0, objective="understanding", caption_weight=1.0, image_weight=1.0)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-4)), math.log1p(math.exp(4))])
    pairs = pairs_of(world, CHECKPOINT)
    rows = pairs.rows(3)
    with torch.no_grad():
        together = scorer(pairs.batch(rows, device="cpu"))
        alone = [scorer(pairs.batch([row], device="cpu")) for row in rows]
    for name, values in together._asdict().items():
        assert values.shape == (3,)
        assert torch.allclose(values, torch.cat([getattr(one, name) for one in alone]), rtol=1e-4, atol=1e-3)


def test_a_hopeless_pair_has_a_finite_loss_and_gradient():
    """-log(sigmoid(x)) overflows for very negative x."""
    chosen = torch.tensor([-5000.0], requires_grad=True)
    loss = dpo_loss(chosen, torch.tensor([-1.0]), torch.tensor([-1.0]), torch.tensor([-1.0]), beta=0.2)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.2 * 4999)
    assert chosen.grad.item() == pytest.approx(-0.2)


def test_chosen_and_rejected_see_the_same_prompt_and_mask(world, scorer):
    """Prompt dropout (10 %) was drawn separately for chosen and rejected rows."""
    batch = batch_of(world, 4)
    same = replace(batch, rejected_captions=batch.chosen_captions, rejected_images=batch.chosen_images)
    for _ in range(10):  # dropout of 10 % would show
        logps = scorer(same)
        assert torch.equal(logps.chosen_caption, logps.rejected_caption)
        assert torch.equal(logps.chosen_image, logps.rejected_image)


# loaders


def test_every_batch_is_homologous(world):
    """Image pairs and caption pairs were shuffled independently."""
    pairs = pairs_of(world, CHECKPOINT)
    folder = world.checkpoint(0, CHECKPOINT) / "preferences"
    table = read_table(folder / "preferences.parquet", ["id"]).set_index("id")
    captions = pd.read_parquet(world.data("pairs")).set_index("id")["caption"]
    ids, codes = read_images(world.seen("pairs"))
    kept_ids, kept = read_images(folder / "images.npy")
    batch = pairs.batch(pairs.rows(20), device="cpu")
    for k, (pair_id, _) in enumerate(batch.rows):
        assert batch.captions[k] == captions[pair_id]
        assert batch.seen[k].tolist() == codes[ids.index(pair_id), 0].tolist()
        assert batch.chosen_captions[k] == table["chosen_caption"][pair_id]
        assert batch.rejected_captions[k] == table["rejected_caption"][pair_id]
        chosen, rejected = kept[kept_ids.index(pair_id)].tolist()
        assert batch.chosen_images[k].tolist() == chosen
        assert batch.rejected_images[k].tolist() == rejected


def test_the_caption_term_sees_the_image(world, scorer):
    """The loader looked for a key that its own rows do not have, so every caption was scored on a blank image."""
    batch = batch_of(world, 3)
    with torch.no_grad():
        logps, others = scorer(batch), scorer(replace(batch, seen=batch.seen.roll(1, 0)))
    assert not torch.equal(logps.chosen_caption, others.chosen_caption)
    assert torch.equal(logps.chosen_image, others.chosen_image)


def test_captions_are_trained_after_the_prompt_they_are_sampled_after(world, monkeypatch):
    """Training asked for a detailed caption, without the token before the text that sampling puts there."""
    model = load_model(world.checkpoint(0, "base") / "model", device="cpu")
    pairs, asked = pairs_of(world, CHECKPOINT), []
    scored = model.text_logps

    def text_logps(seen, prompts, *rest, **more):
        asked.extend(prompts)
        return scored(seen, prompts, *rest, **more)

    def sample_tokens(model, seen, owners, prompts, **_):
        asked.extend(prompts)
        return [[model.end_token]] * len(prompts)

    monkeypatch.setattr(model, "text_logps", text_logps)
    monkeypatch.setattr(sample, "sample_tokens", sample_tokens)
    with torch.no_grad():
        PairLogps(model, "pair").eval()(pairs.batch(pairs.rows(3), device="cpu"))
    seen = {"p": np.zeros(model.seen.shape, model.seen.dtype)}
    sample.sample_captions(model, ["p"], seen, settings=small_config().sampling, stream=(0, "base"))
    assert len(asked) > 6 and set(asked) == {model.caption_prompt}


# configs


def test_images_of_another_resolution_are_refused(world, tmp_path):
    """The official configs sample 1,024 tokens and train on 256."""
    layout = Layout(Path(shutil.copytree(world.root, tmp_path / "results")))
    small = ImageForm("codes", (4,), "uint16")
    for path in (layout.seen("pairs"), layout.checkpoint(0, CHECKPOINT) / "preferences" / "images.npy"):
        ids, codes = read_images(path)
        kept = np.array(codes)
        write_images(path, ids, kept[..., :4], small)
        with pytest.raises(ArtifactError, match=rf"{path.name}: images are .*shape=\(4,\).* but the model .* takes"):
            pairs_of(layout, CHECKPOINT)
        write_images(path, ids, kept, form_of(small_config()))
    assert len(pairs_of(layout, CHECKPOINT)) > 0


# training


def test_a_warm_up_longer_than_the_training_is_refused(world):
    """Warm-up of 5,000 steps with 3,000 trained: the learning rate never reached its value."""
    for warmup in (6, 5000):
        with pytest.raises(ConfigError, match="Lower warmup_steps or raise steps"):
            check_training(training(steps=6, warmup_steps=warmup), processes=1)
        with pytest.raises(ConfigError, match="warmup_steps"):
            train.run(small_config(warmup_steps=warmup), world, seed=0, checkpoint=CHECKPOINT)


def test_norms_and_biases_are_not_decayed(world):
    """The names of Phi's norms matched none of the patterns of what is not decayed."""
    model = load_model(world.checkpoint(0, "base") / "model", device="cpu")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = new_optimizer(model, training(weight_decay=0.1)).param_groups
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert {name for name in names.values() if "norm" in name or name.endswith("bias")} == {*names.values()} - decayed
    assert decayed and any("layernorm" in name for name in names.values())


def test_a_killed_training_resumes_to_the_same_weights(world, tmp_path, monkeypatch, capfd):
    """The official resume restored weights only, not optimiser, schedule, step order or RNG."""
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())
    config = {"steps": 30, "checkpoint_every": 5}
    score_reference(small_config(**config), world, CHECKPOINT)
    straight, killed = (Layout(Path(shutil.copytree(world.root, tmp_path / name))) for name in ("straight", "killed"))

    job = start_training(killed, config)
    states = killed.checkpoint(0, CHECKPOINT) / "state"
    while not list(states.glob("step-*")):
        assert job.poll() is None, "the training ended before it could be killed"
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert not (killed.checkpoint(0, CHECKPOINT) / "model").exists()

    for layout in (killed, straight):
        train.run(small_config(**config), layout, seed=0, checkpoint=CHECKPOINT)
    assert capfd.readouterr().out.count("resuming after step") == 1
    for file in ("model.safetensors", "history.csv"):
        paths = [layout.checkpoint(0, CHECKPOINT) / "model" / file for layout in (straight, killed)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), file
    assert not states.exists()


def start_training(layout: Layout, config: dict) -> subprocess.Popen:
    script = (
        "from pathlib import Path; from tests.support.pair_world import small_config\n"
        "from hermesflow.core.files import Layout; from hermesflow.stages import train\n"
        "from hermesflow.tracking import runs\n"
        "from contextlib import nullcontext; runs.open_run = lambda *a, **k: nullcontext()\n"
        f"train.run(small_config(**{config}), Layout(Path({str(layout.root)!r})), seed=0, checkpoint='{CHECKPOINT}')\n"
    )
    return subprocess.Popen([sys.executable, "-c", script], env=environment())


# iteration 2


def test_iterations_are_named_by_the_config_alone(tmp_path, monkeypatch):
    """File names and the iteration number were hard-coded."""
    monkeypatch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())
    config = small_config(steps=2)
    tree = {"one": ("base", "pair"), "two": ("one", "pair"), "three": ("two", "generation")}
    config = replace(config, checkpoints={k: Checkpoint(parent=p, objective=o) for k, (p, o) in tree.items()})
    layout = make_world(tmp_path, config)
    ids = [f"pairs-{k}" for k in range(7)]
    for seed, name in enumerate(tree, start=10):
        prefer.run(config, layout, seed=0, checkpoint=name)
        score_reference(config, layout, name)
        train.run(config, layout, seed=0, checkpoint=name)
        make_candidates(layout.checkpoint(0, name), ids, n=4, config=config, seed=seed)
        first = pd.read_csv(layout.checkpoint(0, name) / "model" / "history.csv").iloc[0]
        assert first["loss/t2i"] == pytest.approx(math.log(2), abs=1e-6)  # its own parent is the reference
    assert "pair-" not in "".join(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if "seed0" in str(p))
    assert SMOKE.exists()


# speed


def test_the_reference_runs_once_beforehand_and_never_while_training(world, monkeypatch):
    """Two full reference passes were made in every step."""
    calls = []
    settings = training()
    accelerator = new_accelerator(settings, device="cpu", precision="no")
    model = load_model(world.checkpoint(0, "base") / "model", device="cpu")
    pairs = pairs_of(world, CHECKPOINT)
    table = reference_logps(model, pairs, training=settings, accelerator=accelerator, what="reference")
    assert list(zip(table["id"], table["pass"], strict=True)) == pairs.rows(settings.steps * settings.batch_size)

    from hermesflow.training.interruption import Interruption
    from hermesflow.training.logps import ReferenceTable
    from hermesflow.training.pair_dpo import train_policy
    from hermesflow.training.state import StateFolder

    model.register_forward_hook(lambda *args: calls.append(args))
    monkeypatch.setattr(PairLogps, "forward", _counted(PairLogps.forward, calls))
    train_policy(
        model,
        pairs,
        ReferenceTable(table),
        objective="pair",
        training=settings,
        accelerator=accelerator,
        state=StateFolder(world.root / "state", task="speed"),
        interruption=Interruption(),
        log=lambda metrics, step: None,
        what="train",
    )
    assert len(calls) == settings.steps


def _counted(forward, calls):
    def call(self, batch):
        calls.append(batch)
        return forward(self, batch)

    return call
