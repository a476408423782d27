"""The budget's figures for Emu3 are those of the real calls, as torch counts them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hermesflow.budget.table import as_json
from hermesflow.config.load import load_config
from hermesflow.config.sections import Decoding, ImageSampling
from hermesflow.core.seeding import generator
from hermesflow.models import backbone, kernels
from hermesflow.models.costs.decoder import text_decoding
from hermesflow.models.emu3 import costs
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import machine_of, total
from hermesflow.selfplay.sampling import sample_texts

SMOKE = load_config(Path(__file__).parents[2] / "config" / "smoke.yaml")
KEYS = {"family": "emu3", "heads": 4, "key_value_heads": 2, "negative_prompt": "two blue squares"}
CONFIG = replace(SMOKE, language_model=replace(SMOKE.language_model, **KEYS))
CAPTIONS = ["a red circle above a blue square", "a small green cross and two circles"]  # 7 words each
IN_PLACE = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}  # torch does not count it


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(kernels, "by_onednn", lambda x: False)  # its products are not counted
    return backbone.new_model(CONFIG, seed=0)


@pytest.fixture
def sizes():
    return costs.Decoder.of(CONFIG)


@pytest.fixture
def batches(sizes):
    return costs.Batches(CONFIG, sizes, Lengths.of(CONFIG))


def counted(work):
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def drawn(count):
    return torch.randint(1024, (count, 16), generator=generator("budget"))


def test_parameters_are_those_of_the_model(model, sizes):
    assert sizes.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_image_decoding(model, sizes, guidance):
    settings = ImageSampling(n=3, steps=1, guidance=guidance, temperature=1.0, temperature_schedule="linear")
    rows = [caption for caption in CAPTIONS for _ in range(3)]
    draws = [generator("budget", k) for k in range(6)]
    flops = counted(lambda: model.generate_images(rows, settings=settings, generators=draws))
    plan = costs.image_decoding(sizes, rows=6, prompts=2, prompt_length=11, guided=guidance > 0, size=4)
    assert total(plan, "flops") == pytest.approx(flops, rel=1e-6)


def test_text_decoding(model, sizes):
    model.end_token = -1  # no text ends early
    rows, prompts = torch.tensor([0, 0, 1, 1]), ["describe the image"] * 4

    def work():
        sample_texts(
            model,
            drawn(2),
            rows,
            prompts,
            decodings=[Decoding(top_k=1, temperature=1.0)] * 4,
            max_new_tokens=5,
            generators=[generator("budget", k) for k in range(4)],
        )

    plan = text_decoding(sizes, images=2, prompts=2, prompt_length=4, rows=4, tokens=5, size=4)
    assert total(plan, "flops") == pytest.approx(counted(work), rel=1e-6)


def test_scoring_and_training(model, sizes, batches):
    owners = torch.tensor([0, 1, 0, 1])
    prompts = ["describe the image"] * 4
    texts = costs.text_scoring(sizes, images=2, prompts=2, prompt_length=4, rows=4, scored=8)
    images = costs.image_scoring(sizes, prompts=2, prompt_length=11, rows=4, scored=16)
    works = (
        (texts, lambda: model.text_logps(drawn(2), prompts, CAPTIONS * 2, owners=owners)),
        (images, lambda: model.image_logps(CAPTIONS, drawn(4), None, owners=owners)),
    )
    for work, run in works:
        plan = batches.scored(work)
        with torch.no_grad():
            assert plan.flops * plan.times == pytest.approx(counted(run), rel=1e-6)
        plan = batches.trained(work, dpo=True)
        # input states of the decoder have no gradient where they are made without one
        assert plan.flops * plan.times == pytest.approx(counted(lambda run=run: run().sum().backward()), rel=0.03)


def test_image_tokenizer(sizes):
    network = backbone.part("emu3", "vq").ImageVQ(CONFIG.image_tokenizer).eval()
    there, back = costs.directions(CONFIG.image_tokenizer, 48)
    images = torch.rand(1, 3, 48, 48, generator=generator("budget")) * 2 - 1
    with torch.inference_mode():
        codes = network.encode(images)
        assert counted(lambda: network.decode(codes)) == pytest.approx(back.flops, rel=1e-6)
        assert counted(lambda: network.encode(images)) == pytest.approx(there.flops, rel=1e-6)
    saved = costs.saved_bytes(CONFIG.image_tokenizer, 48)
    assert saved == 4 * sum(tensor.numel() for tensor in network.state_dict().values())


def test_a_plan_is_made_of_every_rule():
    text = as_json(CONFIG, [machine_of("1xh100")], lengths=Lengths.of(CONFIG), utilisation=0.4)
    assert '"rule": "train"' in text
