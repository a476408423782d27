"""What every backbone must do, whatever it is made of. A new family joins by a line in PLAIN.

HERMESFLOW_TEST_DEVICE=cuda runs all of it there, against the plain path on the CPU (`make gpu-check`).
"""

import copy
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hermesflow.config.load import load_config
from hermesflow.config.sections import Decoding
from hermesflow.core.errors import ArtifactError, ConfigError, NotFiniteError
from hermesflow.core.images import as_tensor, write_images
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import write_pairs
from hermesflow.data.worlds.questions import Question
from hermesflow.evaluation.worlds import generation
from hermesflow.evaluation.worlds.generation import Request
from hermesflow.models import backbone
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.selfplay.scoring import vqa_likelihood, vqa_probability
from hermesflow.stages import gather_candidates, gather_scores, sample, score
from hermesflow.training.distributed import new_accelerator
from hermesflow.training.logps import Logps, ReferenceTable, reference_logps
from hermesflow.training.pair_dpo import step_loss, train_policy
from hermesflow.training.pairs import HomologousPairs
from hermesflow.training.pretraining import Batch, optimiser_of, train_step
from hermesflow.training.state import StateFolder
from tests.support.plain_paths import PLAIN

SMOKE = load_config(Path(__file__).parents[2] / "config" / "smoke.yaml")
DEVICE = os.environ.get("HERMESFLOW_TEST_DEVICE", "cpu")
CLOSE = {"cpu": {"rtol": 1e-4, "atol": 1e-4}}.get(DEVICE, {"rtol": 1e-3, "atol": 1e-3})
HALF = {"rtol": 2**-8, "atol": 1e-2}
"""Of log-probs in bfloat16: one step of its 8 bits; where logits are near 0, soft-max leaves less in the sums."""
CAPTIONS = ["a red circle", "two blue squares", "a green cross", "a red square and a blue circle", "three circles"]


def test_every_family_has_a_plain_path():
    assert set(backbone.families()) < set(PLAIN)


@pytest.fixture(params=sorted(PLAIN))
def config(request):
    images = replace(SMOKE.sampling.images, n=3, steps=3, guidance=1.5)
    captions = replace(SMOKE.sampling.captions, decodings=SMOKE.sampling.captions.decodings[:3], max_new_tokens=5)
    training = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1, "checkpoint_every": 2}
    return replace(
        SMOKE,
        data=replace(SMOKE.data, pairs=7),
        runtime=replace(SMOKE.runtime, device=DEVICE),
        language_model=replace(SMOKE.language_model, family=request.param),
        sampling=replace(SMOKE.sampling, images=images, captions=captions, batch_pairs=2),
        scoring=replace(SMOKE.scoring, batch_images=6),
        training=replace(SMOKE.training, **training),
    )


@pytest.fixture
def on_cpu(config):
    """The model of the plain path."""
    return backbone.new_model(config, seed=3)


@pytest.fixture
def model(on_cpu):
    return copy.deepcopy(on_cpu).to(DEVICE)


@pytest.fixture
def plain(on_cpu):
    return PLAIN[on_cpu.family]


def random_images(config, form, *leading):
    """Stored arrays of any form with values that occur."""
    high = {"codes": 2**config.image_tokenizer.codebook_bits, "pixels": 256}[form.kind]
    return np.random.default_rng(5).integers(0, high, (*leading, *form.shape)).astype(form.dtype)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def names(count):
    return [(0, 1, f"pairs-{k}", 0) for k in range(count)]


def gradients(model, value):
    model.zero_grad()
    value.sum().backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(model, value, on_cpu, expected):
    one, other = gradients(model, value), gradients(on_cpu, expected)
    assert one.keys() == other.keys() and one
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-3, atol=2e-5, msg=name)


# log-probs


def test_image_logps_are_those_of_the_plain_path(config, model, on_cpu, plain):
    images = as_tensor(random_images(config, model.generated, 4))
    noise, owners = model.noise(names(2), config.training), torch.tensor([0, 1, 0, 1])
    both = [CAPTIONS[i] for i in owners]
    logps = model.image_logps(CAPTIONS[:2], images, noise, owners=owners)
    expected = plain.image_logps(on_cpu, both, images, model.noise([names(2)[i] for i in owners], config.training))
    assert logps.shape == (4,) and logps.dtype == torch.float32 and logps.device.type == DEVICE
    torch.testing.assert_close(logps.cpu(), expected, **CLOSE)
    assert_same_gradients(model, logps, on_cpu, expected)


def test_text_logps_are_those_of_the_plain_path(config, model, on_cpu, plain):
    seen = as_tensor(random_images(config, model.seen, 2))
    owners, prompts = torch.tensor([0, 1, 1, 0]), [model.caption_prompt] * 3 + ["is there a circle"]
    logps = model.text_logps(seen, prompts, CAPTIONS[:4], owners=owners)
    expected = plain.text_logps(on_cpu, seen[owners], prompts, CAPTIONS[:4])
    assert logps.shape == (4,) and logps.dtype == torch.float32 and logps.device.type == DEVICE
    torch.testing.assert_close(logps.cpu(), expected, **CLOSE)
    assert_same_gradients(model, logps, on_cpu, expected)


@torch.inference_mode()
def test_logps_in_bfloat16_are_near_those_in_float32(config, model):
    seen, images = (as_tensor(random_images(config, form, 4)) for form in (model.seen, model.generated))
    noise, prompts = model.noise(names(4), config.training), [model.caption_prompt] * 4

    def logps():
        return model.image_logps(CAPTIONS[:4], images, noise), model.text_logps(seen, prompts, CAPTIONS[:4])

    exact = logps()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):  # as in training
        mixed = logps()
    model.to(torch.bfloat16)  # as in sampling and scoring
    half = logps()
    for expected, *others in zip(exact, mixed, half, strict=True):
        for values in others:
            assert values.dtype == torch.float32 and not torch.equal(values, expected)
            torch.testing.assert_close(values, expected, **HALF)


@torch.inference_mode()
def test_completions_may_be_the_ids_they_were_sampled_as(config, model):
    """Then they are scored as they are: without an end where they were cut."""
    seen, prompts = as_tensor(random_images(config, model.seen, 2)), [model.caption_prompt] * 2
    ids = model.completion_tokens(CAPTIONS[:2])
    assert [row[-1] for row in ids] == [model.end_token] * 2
    texts, sampled = (model.text_logps(seen, prompts, one) for one in (CAPTIONS[:2], ids))
    torch.testing.assert_close(sampled, texts, rtol=0, atol=0)
    cut = model.text_logps(seen, prompts, [ids[0][:-1], CAPTIONS[1]])
    assert cut[0] > texts[0] and torch.equal(cut[1], texts[1])


@torch.inference_mode()
def test_a_session_gives_the_logps_of_its_texts_token_by_token(config, model):
    seen = as_tensor(random_images(config, model.seen, 2))
    prompts, owners = [model.caption_prompt, "is there a circle", model.caption_prompt], torch.tensor([1, 0, 0])
    tokens = [[*ids, model.end_token] for ids in model.tokenize(CAPTIONS[:3])]
    session = model.text_session(seen, owners, prompts)
    total, logits = torch.zeros(3), session.logits.cpu()
    for step in range(max(map(len, tokens))):
        now = torch.tensor([row[step] if step < len(row) else model.end_token for row in tokens])
        inside = torch.tensor([step < len(row) for row in tokens])
        total += torch.where(inside, logits.log_softmax(dim=1)[torch.arange(3), now], 0.0)
        logits = session.step(now).cpu()
    torch.testing.assert_close(total, model.text_logps(seen, prompts, CAPTIONS[:3], owners=owners).cpu(), **CLOSE)


@torch.inference_mode()
def test_rows_of_a_session_that_are_kept_go_on_as_they_were(config, model):
    seen = as_tensor(random_images(config, model.seen, 3))
    one, other = (model.text_session(seen, torch.arange(3), [model.caption_prompt] * 3) for _ in range(2))
    first, second = (torch.tensor(model.tokenize([text])[0][:3]) for text in ("a red circle", "two blue squares"))
    one.step(first)
    other.step(first)
    one.keep(torch.tensor([2, 0]))
    torch.testing.assert_close(one.step(second[:2]), other.step(second[[1, 0, 0]])[[2, 0]], **CLOSE)


# generation


def test_images_are_those_of_the_plain_path(config, model, on_cpu, plain):
    settings = config.sampling.images
    images = model.generate_images(CAPTIONS, settings=settings, generators=seeded(len(CAPTIONS)))
    assert images.shape == (len(CAPTIONS), *model.generated.shape)
    for caption, image, generator in zip(CAPTIONS, images, seeded(len(CAPTIONS)), strict=True):
        assert torch.equal(image, plain.generate(on_cpu, caption, settings, generator))


def seeded(count):
    return [torch.Generator().manual_seed(k) for k in range(count)]


def test_rows_do_not_depend_on_their_neighbours(config, model):
    settings = config.sampling.images
    together = model.generate_images(CAPTIONS, settings=settings, generators=seeded(5))
    seen = as_tensor(random_images(config, model.seen, 5))
    writing = {"decodings": [Decoding(top_k=4, temperature=1.5)] * 5, "max_new_tokens": 6}
    prompts = [model.caption_prompt] * 5
    texts = sample_texts(model, seen, torch.arange(5), prompts, **writing, generators=seeded(5))
    noise = model.noise(names(5), config.training)
    logps = model.image_logps(CAPTIONS, together, noise), model.text_logps(seen, prompts, CAPTIONS)
    for k in range(5):
        alone = model.generate_images([CAPTIONS[k]], settings=settings, generators=[seeded(5)[k]])
        assert torch.equal(alone[0], together[k])
        one = {"decodings": writing["decodings"][:1], "max_new_tokens": 6, "generators": [seeded(5)[k]]}
        assert sample_texts(model, seen[[k]], torch.tensor([0]), prompts[:1], **one) == [texts[k]]
        single = (
            model.image_logps([CAPTIONS[k]], together[[k]], model.noise([names(5)[k]], config.training)),
            model.text_logps(seen[[k]], prompts[:1], [CAPTIONS[k]]),
        )
        for value, batched in zip(single, logps, strict=True):
            torch.testing.assert_close(value[0], batched[k], **CLOSE)


def test_logits_that_are_not_finite_are_refused_wherever_the_model_writes_draws_or_ranks(config, model, tmp_path):
    model.save(tmp_path)
    model = backbone.load_model(tmp_path, device=DEVICE)
    heads = [parameter for name, parameter in model.named_parameters() if "head" in name]
    for parameter in heads or list(model.parameters())[-1:]:  # of the output layers; what is in the file is whole
        parameter.data[:] = math.nan
    seen = as_tensor(random_images(config, model.seen, 2))
    greedy, hot = Decoding(top_k=1, temperature=1.0), Decoding(top_k=3, temperature=0.7)
    question = Question("is there a circle ?", ("no", "yes"), "yes", "existence")
    for decoding in (greedy, hot):
        with pytest.raises(NotFiniteError, match=rf"{tmp_path.name} in precision no: .*`is there`.* about image 1"):
            sample_texts(
                model,
                seen,
                torch.tensor([1]),
                ["is there"],
                decodings=[decoding],
                max_new_tokens=3,
                generators=seeded(1),
            )
    for method in (vqa_likelihood, vqa_probability):
        with pytest.raises(NotFiniteError, match=r"answer `(no|yes)` to `is there a circle \?` about image 1"):
            method(model, seen, torch.tensor([1]), [question])
    with pytest.raises(NotFiniteError, match=r"in precision no.*prompt `a red circle`|in precision no.*row 0"):
        generation.draw(model, [Request("a", 0, "a red circle")], settings=config.sampling.images, seed=0)


def test_weights_that_are_not_finite_in_the_asked_precision_are_refused(config, model, tmp_path):
    name = list(model.state_dict())[-1]
    model.state_dict()[name].view(-1)[0] = 1e6
    model.save(tmp_path)
    backbone.load_model(tmp_path, device=DEVICE)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights[name].view(-1)[0] = math.inf
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=rf"{tmp_path.name}: tensor `{name}` holds 1 values"):
        backbone.load_model(tmp_path, device=DEVICE)


def test_one_generator_a_row(config, model):
    with pytest.raises(ValueError, match="generators"):
        model.generate_images(CAPTIONS[:2], settings=config.sampling.images, generators=seeded(1))


@pytest.fixture
def layout(config, model, tmp_path, monkeypatch):
    """Pairs, real images as they are seen, the image tokenizer and a base model."""
    from hermesflow.core.files import Layout

    monkeypatch.chdir(tmp_path)  # relative paths, as on the command line
    layout = Layout(Path("results"))
    rows = list(WORLD.make_pairs("pairs", config.data.pairs, config=config.data))
    write_pairs(layout.data("pairs"), rows)
    seen = random_images(config, model.seen, len(rows), 1)
    write_images(layout.seen("pairs"), [row["id"] for row in rows], seen, model.seen)
    model.save(layout.checkpoint(0, "base") / "model")
    training = replace(config.tokenizer_training, steps=1)
    pixels = np.zeros((2, config.data.image_size, config.data.image_size, 3), dtype=np.uint8)
    codec, _ = backbone.train_codec(replace(config, tokenizer_training=training), pixels)
    codec.save(layout.tokenizer)
    return layout


def test_candidates_and_scores_do_not_depend_on_the_number_of_shards(config, layout):
    made = []
    for shards in (1, 3):
        for stage, gather in ((sample, gather_candidates), (score, gather_scores)):
            for shard in range(shards):
                stage.run(config, layout, seed=0, checkpoint="base", shard=shard, shards=shards)
            gather.run(config, layout, seed=0, checkpoint="base", shards=shards)
        folder = layout.checkpoint(0, "base")
        made.append({kind: bytes_of(folder / kind) for kind in ("candidates", "scores")})
    assert made[0] == made[1]


def test_forms_of_images_are_kept_beside_them(config, model, layout):
    from hermesflow.core.images import read_form, read_images

    sample.run(config, layout, seed=0, checkpoint="base")
    path = layout.checkpoint(0, "base") / "candidates" / "shards" / "0-of-1" / "images.npy"
    assert read_form(path) == model.generated
    ids, images = read_images(path, model.generated)
    assert images.shape == (len(ids), config.sampling.images.n, *model.generated.shape)
    assert images.dtype == model.generated.dtype


def test_generated_images_can_be_seen_and_looked_at(config, model, layout):
    codec = backbone.load_codec(layout.tokenizer, device=DEVICE)
    assert (codec.seen, codec.generated) == (model.seen, model.generated)
    images = as_tensor(random_images(config, model.generated, 2))
    pixels = codec.to_pixels(images)
    assert pixels.shape == (2, config.data.image_size, config.data.image_size, 3) and pixels.dtype == np.uint8
    assert codec.see(pixels).shape == (2, *model.seen.shape)
    assert codec.encode(pixels).shape == (2, *model.generated.shape)
    assert backbone.seen_of(model, images, lambda: codec).shape == (2, *model.seen.shape)


# Pair-DPO


def homologous(config, model, count=5):
    import pandas as pd

    ids = [f"pairs-{k}" for k in range(count)]
    images = random_images(config, model.generated, count, 2)
    seen = random_images(config, model.seen, count)
    table = pd.DataFrame(
        {
            "id": ids,
            "chosen_caption": CAPTIONS[:count],
            "rejected_caption": CAPTIONS[1:count] + CAPTIONS[:1],
            "chosen_caption_score": 1.0,
            "rejected_caption_score": 0.0,
        }
    )
    return HomologousPairs(
        table,
        images=dict(zip(ids, images, strict=True)),
        captions=dict(zip(ids, CAPTIONS, strict=True)),
        seen=dict(zip(ids, seen, strict=True)),
        seed=0,
        iteration=1,
        noise=lambda wanted: model.noise(wanted, config.training),
    )


def reference_of(config, model, pairs):
    accelerator = new_accelerator(config.training, device=DEVICE, precision="no")
    return ReferenceTable(
        reference_logps(model, pairs, training=config.training, accelerator=accelerator, what="reference")
    )


def test_scored_tokens_are_those_of_a_pair_s_image(config, model):
    """All of an image, or as many as its noise hides; never none."""
    noise = model.noise(names(4), config.training)
    scored, tokens = model.scored_tokens(noise, 4), math.prod(model.generated.shape)
    assert scored.shape == (4,) and scored.min() >= 1 and scored.max() <= tokens
    assert noise is not None or scored.tolist() == [tokens] * 4


def test_a_family_masks_as_it_is_told_or_says_that_it_masks_nothing(config, model):
    for settings in ({"mask_ratios": (0.9, 1.0)}, {"mask_schedule": "linear"}):
        training = replace(config.training, **settings)
        try:
            noise = model.noise(names(20), training)
        except ConfigError as error:
            assert f"training.{next(iter(settings))} is" in str(error) and "masks no image tokens" in str(error)
            assert model.noise(names(20), config.training) is None
            continue
        assert not torch.equal(noise, model.noise(names(20), config.training))
        if "mask_ratios" in settings:
            assert model.scored_tokens(noise, 20).min() >= round(0.9 * math.prod(model.generated.shape))


def test_the_first_step_is_two_ln_two(config, model):
    pairs = homologous(config, model)
    reference, rows = reference_of(config, model, pairs), pairs.rows(4)
    from hermesflow.training.logps import PairLogps

    policy = PairLogps(model, "pair").eval()(pairs.batch(rows, device=DEVICE))
    settings = replace(config.training, chosen_nll_weight=0.0, caption_weight=1.0, image_weight=1.0)
    loss, metrics = step_loss(policy, reference.lookup(rows, torch.device(DEVICE)), objective="pair", training=settings)
    assert isinstance(policy, Logps)
    assert torch.equal(loss.cpu(), torch.full((4,), 2 * torch.tensor(2.0).log().item()))
    assert math.isclose(metrics["loss"].mean().item(), 2 * math.log(2), rel_tol=1e-6)


class Stop:
    """A wish to stop after some steps."""

    def __init__(self, after):
        self.left = after

    def wished_by_any(self, accelerator):
        self.left -= 1
        return self.left == 0


def test_a_killed_training_goes_on_to_the_same_weights(config, model, tmp_path):
    from hermesflow.core.errors import Interrupted

    model.save(tmp_path / "parent")
    pairs = homologous(config, model)
    reference = reference_of(config, model, pairs)

    def train(folder, after):
        policy = backbone.load_model(tmp_path / "parent", device=DEVICE)
        train_policy(
            policy,
            pairs,
            reference,
            objective="pair",
            training=config.training,
            accelerator=new_accelerator(config.training, device=DEVICE, precision="no"),
            state=StateFolder(folder, task="one"),
            interruption=Stop(after),
            log=lambda metrics, step: None,
            what="train",
        )
        return policy

    whole = train(tmp_path / "whole", 99)
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", 3)
    resumed = train(tmp_path / "cut", 99)
    before = backbone.load_model(tmp_path / "parent", device=DEVICE).state_dict()
    changed = False
    for name, weight in whole.state_dict().items():
        if DEVICE == "cpu":
            assert torch.equal(weight, resumed.state_dict()[name]), name
        else:  # sums there have no fixed order
            torch.testing.assert_close(weight, resumed.state_dict()[name], **CLOSE)
        changed |= not torch.equal(weight, before[name])
    assert changed


def test_what_is_saved_is_loaded_to_the_last_bit(config, model, tmp_path):
    model.save(tmp_path)
    loaded = backbone.load_model(tmp_path, device=DEVICE)
    assert not loaded.training and loaded.family == model.family
    assert (loaded.seen, loaded.generated, loaded.end_token) == (model.seen, model.generated, model.end_token)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    seen = as_tensor(random_images(config, model.seen, 2))
    prompts = [model.caption_prompt] * 2
    with torch.inference_mode():
        logps = [one.text_logps(seen, prompts, CAPTIONS[:2]) for one in (model, loaded)]
    assert torch.equal(*logps)


def test_pre_training_never_touches_frozen_parts(config, model):
    model.train()
    frozen = [module for part in model.frozen for module in part.modules()]
    assert all(not module.training for module in frozen)
    kept = {name: value.clone() for part in model.frozen for name, value in part.state_dict().items()}
    weights = [p for p in model.parameters() if p.requires_grad]
    assert weights
    seen = as_tensor(random_images(config, model.seen, 2))
    images = as_tensor(random_images(config, model.generated, 2))
    optimizer = torch.optim.SGD(weights, lr=0.1)
    noise = model.training_noise(2, torch.Generator().manual_seed(0))
    before = [weight.detach().clone() for weight in weights]
    prompts = [model.caption_prompt] * 3
    loss = model.image_loss(["", CAPTIONS[0]], images, noise)
    loss = loss + model.text_loss(seen, torch.tensor([0, 1, 0]), prompts, CAPTIONS[:3])
    assert loss.ndim == 0 and math.isfinite(loss.item())
    loss.backward()
    optimizer.step()
    assert any(not torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    now = {name: value for part in model.frozen for name, value in part.state_dict().items()}
    assert all(torch.equal(now[name], value) for name, value in kept.items())
    assert all(p.grad is None for part in model.frozen for p in part.parameters())


def test_what_a_step_changes_is_seen_without_gradients_too(config, model):
    """Weights may have been laid out before it (`models/kernels.Layout`)."""
    seen = as_tensor(random_images(config, model.seen, 2))
    prompts, texts = [model.caption_prompt] * 2, CAPTIONS[:2]
    batch = Batch([], torch.zeros(0), None, seen, torch.tensor([0, 1]), prompts, texts)
    optimizer, schedule = optimiser_of(model, replace(SMOKE.base_training, learning_rate=0.1, text_first=0.0))

    def outputs(one):
        with torch.inference_mode():
            images = one.generate_images(texts, settings=config.sampling.images, generators=seeded(2))
            return one.text_logps(seen, prompts, texts), images

    before, _ = outputs(model)
    for _ in range(2):
        train_step(model, batch, optimizer, schedule, SMOKE.base_training)
        (logps, images), (fresh_logps, fresh_images) = outputs(model), outputs(copy.deepcopy(model))
        assert torch.equal(logps, fresh_logps) and torch.equal(images, fresh_images)
        assert not torch.equal(logps, before)
        before = logps


@pytest.mark.parametrize("reduction", ["text_mean", "token_mean"])
def test_the_loss_of_texts_is_a_mean_over_texts_or_over_tokens(config, model, reduction):
    seen, owners = as_tensor(random_images(config, model.seen, 2)), torch.tensor([0, 1, 0])
    prompts, texts = [model.caption_prompt] * 3, ["a red circle", "two blue squares and a green cross", "three circles"]
    texts[2] = " ".join([texts[2]] * 40)  # cut where a family has a longest text
    logps = model.text_logps(seen, prompts, texts, owners=owners)
    lengths = torch.tensor([len(ids) for ids in model.completion_tokens(texts)]).to(logps)
    if (room := model.room(prompts[0])) is not None:
        lengths = lengths.clamp(max=room)
    means = {"text_mean": -(logps / lengths).mean(), "token_mean": -logps.sum() / lengths.sum()}
    assert abs(means["text_mean"] - means["token_mean"]) > 1e-4
    batch = Batch([], torch.zeros(0), None, seen, owners, prompts, texts, model.scored_lengths(prompts, texts))
    settings = replace(SMOKE.base_training, mmu_reduction=reduction)
    metrics = train_step(model, batch, *optimiser_of(model, settings), settings)
    assert metrics["loss/mmu"] == pytest.approx(means[reduction].item(), rel=1e-4)


@pytest.mark.parametrize("family", backbone.families())
def test_random_weights_are_as_wide_as_the_config_says(family):
    def deviation(initializer_range):
        settings = replace(SMOKE.language_model, family=family, initializer_range=initializer_range)
        model = backbone.new_model(replace(SMOKE, language_model=settings), seed=3)
        return torch.stack([p.std() for p in model.decoder_layers[0].parameters() if p.ndim > 1]).median().item()

    own = {"showo": 0.02}.get(family, SMOKE.language_model.hidden_size**-0.5)
    assert deviation(None) == pytest.approx(own, rel=0.1)
    assert deviation(0.3) == pytest.approx(0.3, rel=0.1)


def test_noise_is_a_function_of_its_names(config, model):
    images = as_tensor(random_images(config, model.generated, 3))
    with torch.inference_mode():
        whole = model.image_logps(CAPTIONS[:3], images, model.noise(names(3), config.training))
        again = model.image_logps(CAPTIONS[:3], images, model.noise(names(3), config.training))
    assert torch.equal(whole, again)


# the registry


def test_an_unknown_family_is_refused_with_those_there_are(config):
    from hermesflow.core.errors import ConfigError

    other = replace(config, language_model=replace(config.language_model, family="nobody"))
    with pytest.raises(ConfigError, match=r"nobody.*showo"):
        backbone.new_model(other, seed=0)
