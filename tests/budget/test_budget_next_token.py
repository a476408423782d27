"""The budget's figures for models that write token by token are those of the real calls, as torch counts them."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hermesflow.budget.table import as_json
from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.config.sections import Decoding, ImageSampling, VisionTower
from hermesflow.core.seeding import generator
from hermesflow.models import backbone, kernels
from hermesflow.models.backbone import UnifiedModel
from hermesflow.models.costs.decoder import text_decoding
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import machine_of, total
from hermesflow.selfplay.sampling import sample_texts

SMOKE = load_config(Path(__file__).parents[2] / "config" / "smoke.yaml")
FAMILIES = {
    "emu3": {"heads": 4, "key_value_heads": 2, "negative_prompt": "two blue squares"},
    "janus": {"vision": VisionTower(hidden_size=48, layers=3, heads=2, intermediate_size=96)},
}
CAPTIONS = ["a red circle above a blue square", "a small green cross and two circles"]  # 7 words each
IN_PLACE = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}  # torch does not count it


@dataclass
class World:
    config: Config
    model: UnifiedModel
    """As it is loaded: frozen where Pair-DPO has it frozen."""
    costs: ModuleType

    @property
    def sizes(self):
        return self.costs.Decoder.of(self.config)

    @property
    def prompt_length(self):
        """Columns of the captions' prompts, the beginning of the image included."""
        first, second = self.model.generation_prompts(self.model.tokenize(CAPTIONS))
        assert len(first) == len(second)
        return len(first) + 1

    def images(self, form, count):
        most = 1024 if form.kind == "codes" else 256
        images = torch.randint(most, (count, *form.shape), generator=generator("budget"))
        return images if form.kind == "codes" else images.to(torch.uint8)


@pytest.fixture(params=FAMILIES)
def world(request, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "by_onednn", lambda x: False)  # its products are not counted
    language = replace(SMOKE.language_model, family=request.param, **FAMILIES[request.param])
    config = replace(SMOKE, language_model=language)
    backbone.new_model(config, seed=0).save(tmp_path)
    return World(config, backbone.load_model(tmp_path, device="cpu"), backbone.part(request.param, "costs"))


def counted(work):
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def test_parameters_are_those_of_the_model(world):
    assert world.sizes.parameters == sum(p.numel() for p in world.model.parameters())


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_image_decoding(world, guidance):
    settings = ImageSampling(n=3, steps=1, guidance=guidance, temperature=1.0, temperature_schedule="linear")
    rows = [caption for caption in CAPTIONS for _ in range(3)]
    draws = [generator("budget", k) for k in range(6)]
    flops = counted(lambda: world.model.generate_images(rows, settings=settings, generators=draws))
    keys = {"rows": 6, "prompts": 2, "prompt_length": world.prompt_length, "guided": guidance > 0, "size": 4}
    assert total(world.costs.image_decoding(world.sizes, **keys), "flops") == pytest.approx(flops, rel=1e-6)


def test_text_decoding(world):
    model, sizes = world.model, world.sizes
    model.end_token = -1  # no text ends early
    rows, prompts = torch.tensor([0, 0, 1, 1]), ["describe the image"] * 4

    def work():
        sample_texts(
            model,
            world.images(model.seen, 2),
            rows,
            prompts,
            decodings=[Decoding(top_k=1, temperature=1.0)] * 4,
            max_new_tokens=5,
            generators=[generator("budget", k) for k in range(4)],
        )

    plan = text_decoding(sizes, images=2, prompts=2, prompt_length=4, rows=4, tokens=5, size=4)
    assert total(plan, "flops") + 2 * sizes.tower_flops == pytest.approx(counted(work), rel=1e-6)


def test_scoring_and_training(world):
    owners, model, sizes, costs = torch.tensor([0, 1, 0, 1]), world.model, world.sizes, world.costs
    prompts, seen, codes = (
        ["describe the image"] * 4,
        world.images(world.model.seen, 2),
        world.images(world.model.generated, 4),
    )
    texts = costs.text_scoring(sizes, images=2, prompts=2, prompt_length=4, rows=4, scored=8)
    drawn = costs.image_scoring(sizes, prompts=2, prompt_length=world.prompt_length, rows=4, scored=16)
    works = (
        (texts, lambda: model.text_logps(seen, prompts, CAPTIONS * 2, owners=owners)),
        (drawn, lambda: model.image_logps(CAPTIONS, codes, None, owners=owners)),
    )
    batches = costs.Batches(world.config, sizes, Lengths.of(world.config))
    for work, run in works:
        plan = batches.scored(work)
        with torch.no_grad():
            assert plan.flops * plan.times == pytest.approx(counted(run), rel=1e-6)
        plan = batches.trained(work, dpo=True)
        # input states of the decoder have no gradient where they are made without one
        assert plan.flops * plan.times == pytest.approx(counted(lambda run=run: run().sum().backward()), rel=0.03)


def test_image_tokenizer(world):
    family, tokenizer = world.model.family, world.config.image_tokenizer
    network = backbone.part(family, "vq").ImageVQ(tokenizer).eval()
    there, back = world.costs.Batches(world.config, world.sizes, Lengths.of(world.config)).pixels()
    images = torch.rand(1, 3, 48, 48, generator=generator("budget")) * 2 - 1
    with torch.inference_mode():
        codes = network.encode(images)
        assert counted(lambda: network.decode(codes)) == pytest.approx(back.flops, rel=1e-6)
        flops = counted(lambda: network.encode(images))
    assert flops == pytest.approx(there.flops, rel=1e-6)
    assert world.costs.saved_bytes(tokenizer) == sum(x.nbytes for x in network.state_dict().values())


def test_a_plan_is_made_of_every_rule(world):
    text = as_json(world.config, [machine_of("1xh100")], lengths=Lengths.of(world.config), utilisation=0.4)
    assert '"rule": "train"' in text
