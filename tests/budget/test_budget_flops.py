"""The budget's FLOPs are those that torch counts in the real calls; attention as plain products, so that it is seen."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hermesflow.config.load import load_config
from hermesflow.config.sections import Decoding, ImageSampling, ImageTokenizer, Lora
from hermesflow.core.seeding import generator
from hermesflow.models import capacity, kernels, logps
from hermesflow.models.backbone import new_model, recompute_activations
from hermesflow.models.costs import decoder, pixels
from hermesflow.models.costs.decoder import image_scoring, text_decoding, text_scoring
from hermesflow.models.machines import forwards, total
from hermesflow.models.showo.costs.decoder import Decoder, image_decoding
from hermesflow.models.showo.generation import generate_images
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.selfplay.scoring import vqa_likelihood, vqa_probability
from hermesflow.training.lora import add_adapters

MICRO = load_config(Path(__file__).parents[2] / "config" / "micro.yaml")
IN_PLACE = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}  # torch does not count it
CLOSE = 1e-6  # not a product too many or too few
CAPTIONS = ["a red circle above a blue square", "a small green cross and two circles"]  # 7 words each


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(kernels, "is_float32_on_cpu", lambda x: False)  # plain layers, whose products are counted
    return new_model(MICRO, seed=0)


@pytest.fixture
def sizes():
    return Decoder.of(MICRO)


def counted(work):
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def images(rows):
    return torch.randint(MICRO.codebook_size, (rows, MICRO.num_image_tokens), generator=generator("budget"))


def generators(rows):
    return [generator("budget", k) for k in range(rows)]


def test_parameters_are_those_of_the_model(model, sizes):
    assert sizes.parameters == sum(p.numel() for p in model.parameters())


def test_released_size_is_that_of_show_o():
    sizes = replace(
        Decoder.of(MICRO), hidden_size=2048, layers=24, heads=32, intermediate_size=8192, vocabulary=58_498, codes=8192
    )
    assert round(sizes.parameters / 1e9, 2) == 1.45


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_image_decoding(model, sizes, guidance):
    settings = ImageSampling(n=3, steps=4, guidance=guidance, temperature=1.0, temperature_schedule="linear")
    rows = [caption for caption in CAPTIONS for _ in range(3)]
    calls = []
    model.hidden = counting(model.hidden, calls)
    flops = counted(lambda: generate_images(model, rows, settings=settings, generators=generators(6)))
    plan = image_decoding(sizes, rows=6, prompts=2, prompt_length=10, steps=4, guided=guidance > 0, size=4)
    assert total(plan, "flops") == pytest.approx(flops, rel=CLOSE)
    assert forwards(plan) == len(calls)
    assert total(plan, "tokens") == sum(calls)


def test_text_decoding(model, sizes):
    model.end_token = -1  # no text ends early: the case the budget counts
    calls = []
    model.hidden = counting(model.hidden, calls)
    owners = torch.tensor([0, 0, 0, 1, 1, 1])
    settings = {"decodings": [Decoding(top_k=3, temperature=1.0)] * 6, "max_new_tokens": 9}
    prompts = [MICRO.language_model.caption_prompt] * 6
    model.detokenize = lambda ids: ""
    flops = counted(lambda: sample_texts(model, images(2), owners, prompts, generators=generators(6), **settings))
    plan = text_decoding(sizes, images=2, prompts=2, prompt_length=4, rows=6, tokens=9, size=4)
    assert total(plan, "flops") == pytest.approx(flops, rel=CLOSE)
    assert forwards(plan) == len(calls)
    assert total(plan, "tokens") == sum(calls)


def test_vqa_scoring(model, sizes):
    class Asked:
        question, choices, answer = "is there a red circle ?", ("yes", "no"), "yes"

    owners = torch.tensor([0, 0, 1, 1])
    asked = [Asked(), type("Other", (Asked,), {"question": "is there a blue square ?"})()] * 2
    for rows, score in ((4, vqa_probability), (8, vqa_likelihood)):  # the right choice, or both
        plan = text_scoring(sizes, images=2, prompts=4, prompt_length=7, rows=rows, scored=2)
        flops = counted(lambda score=score: score(model, images(2), owners, asked))
        assert plan.flops.forward == pytest.approx(flops, rel=CLOSE)


def test_what_does_not_run_together(model, sizes, monkeypatch):
    monkeypatch.setattr(capacity, "CPU_STATE_BYTES", 2**20)  # 512 tokens
    calls, rows = [], 20
    model.hidden = counting(model.hidden, calls)
    owners, prompts = torch.arange(rows).repeat(2), [model.caption_prompt] * 2 * rows
    flops = counted(lambda: model.text_logps(images(rows), prompts, CAPTIONS * rows, owners=owners).sum().backward())
    plan = text_scoring(sizes, images=rows, prompts=rows, prompt_length=4, rows=2 * rows, scored=8)
    assert plan.flops.trained(recomputed=False, frozen=False) == pytest.approx(flops, rel=CLOSE)
    assert (plan.calls, plan.tokens) == (len(calls), sum(calls))
    masked = torch.ones(2 * rows, MICRO.num_image_tokens, dtype=torch.bool)
    calls.clear()
    flops = counted(lambda: model.image_logps(CAPTIONS * 10, images(2 * rows), masked, owners=owners))
    plan = image_scoring(sizes, prompts=rows, prompt_length=10, rows=2 * rows, scored=MICRO.num_image_tokens)
    assert plan.flops.forward == pytest.approx(flops, rel=CLOSE)
    assert (plan.calls, plan.tokens) == (len(calls), sum(calls))
    assert plan.calls > 1


def test_logits_that_are_not_there_together_are_made_twice(model, sizes, monkeypatch):
    for module in (logps, decoder):
        monkeypatch.setattr(module, "LOGITS", 3 * sizes.vocabulary)
    how = {"recomputed": False, "frozen": False}
    assert planned_step(sizes, **how) == pytest.approx(counted(lambda: pair_step(model)), rel=CLOSE)


def pair_step(model):
    texts = model.text_logps(images(2), [model.caption_prompt] * 4, CAPTIONS * 2, owners=torch.tensor([0, 1, 0, 1]))
    masked = torch.zeros(4, MICRO.num_image_tokens, dtype=torch.bool)
    masked[:, :3] = True
    drawn = model.image_logps(CAPTIONS, images(4), masked, owners=torch.tensor([0, 1, 0, 1]))
    (texts.sum() + drawn.sum()).backward()


def planned_step(sizes, **how):
    texts = text_scoring(sizes, images=2, prompts=2, prompt_length=4, rows=4, scored=8)
    drawn = image_scoring(sizes, prompts=2, prompt_length=10, rows=4, scored=3)
    return texts.flops.trained(**how) + drawn.flops.trained(**how)


@pytest.mark.parametrize("recomputed", [False, True])
def test_pair_dpo_step(model, sizes, recomputed):
    if recomputed:
        recompute_activations(model)
    assert planned_step(sizes, recomputed=recomputed, frozen=False) == pytest.approx(
        counted(lambda: pair_step(model)), rel=CLOSE
    )


def test_low_rank_adapters_cost_what_is_planned_or_less(model, sizes):
    lora = Lora(rank=4, alpha=8.0, targets=("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"))
    before = sum(p.numel() for p in model.parameters())
    adapted = add_adapters(model, lora, seed=0)
    assert sum(p.numel() for p in adapted.parameters()) - before == sizes.adapter_parameters(lora)
    tokens = 2 * (sizes.image_prefix + 4 + 2 * 7) + 2 * (10 + 2 * sizes.image_block)
    planned = planned_step(sizes, recomputed=False, frozen=True) + 6 * sizes.adapter_parameters(lora) * tokens
    flops = counted(lambda: pair_step(model))
    assert flops <= planned < 1.1 * flops


OFFICIAL = ImageTokenizer(
    channels=16,
    encoder_multipliers=(1, 2, 2),
    encoder_blocks=(2, 1, 2),
    decoder_multipliers=(1, 1, 2),
    decoder_blocks=(2, 1, 1),
    codebook_bits=8,
    patch_size=1,
)


@pytest.mark.parametrize(("settings", "size"), [(MICRO.image_tokenizer, 48), (OFFICIAL, 32)])
def test_image_tokenizer(settings, size):
    tokenizer = MagVitV2(settings)
    there, back = pixels.directions(MagVitV2, settings, size)
    assert there.parameters == sum(p.numel() for p in tokenizer.encoder.parameters())
    assert back.parameters == sum(p.numel() for p in tokenizer.decoder.parameters())
    codes = []
    with torch.inference_mode():
        flops = counted(lambda: codes.append(tokenizer.encode(torch.zeros(2, 3, size, size))))
        assert there.flops * 2 == pytest.approx(flops, rel=CLOSE)
        assert back.flops * 2 == pytest.approx(counted(lambda: tokenizer.decode(codes[0])), rel=CLOSE)


def counting(hidden, calls):
    def forward(tokens, *arguments, **options):
        calls.append(tokens.numel())
        return hidden(tokens, *arguments, **options)

    return forward
