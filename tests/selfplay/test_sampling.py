import math
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from hermesflow.config.sections import Decoding, ImageSampling
from hermesflow.core.seeding import generator
from hermesflow.data.worlds.questions import Question
from hermesflow.models import capacity
from hermesflow.models.draws import inverse_cdf, sessions
from hermesflow.models.showo import generation
from hermesflow.models.showo.generation import generate_images
from hermesflow.selfplay import sampling
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.selfplay.scoring import vqa_likelihood, vqa_probability
from tests.support.showo_golden import CAPTIONS, QUESTION, golden_image, golden_model, random_model, reference

GREEDY = Decoding(top_k=1, temperature=1.0)
HOT = Decoding(top_k=5, temperature=2.0)


def settings(**changes):
    own = {"n": 1, "steps": 4, "guidance": 2.0, "temperature": 1.0, "temperature_schedule": "linear"}
    return ImageSampling(**{**own, **changes})


@pytest.fixture(scope="module")
def small():
    return random_model()


@dataclass
class OfficialDraws:
    """Random numbers as the released sampler takes them: of all rows from one generator.

    Known codes are drawn again there, and what was drawn is dropped.
    """

    generator: torch.Generator
    shape: tuple[int, int]

    @property
    def places(self):
        """In the uniform numbers' stead, (B, 1, 2, T): where each code is among all."""
        return torch.arange(math.prod(self.shape)).view(self.shape)[:, None, None].expand(-1, -1, 2, -1)

    def categorical(self, probabilities, places, what):
        everywhere = probabilities.new_ones(math.prod(self.shape), probabilities.shape[1])
        everywhere[places] = probabilities
        return torch.multinomial(everywhere, 1, generator=self.generator)[places, 0]

    def gumbel(self, places):
        uniforms = torch.empty(self.shape).uniform_(generator=self.generator)
        return -(-uniforms.clamp_min(1e-20).log()).clamp_min(1e-20).log()


@pytest.mark.parametrize(("name", "guidance"), [("g0", 0.0), ("g5", 5.0)])
@torch.inference_mode()
def test_official_sampler_tokens(name, guidance, monkeypatch):
    tensors, facts = reference()
    recorded, model = facts[f"t2i_generate_{name}"], golden_model()
    own = settings(
        steps=recorded["timesteps"],
        guidance=guidance,
        temperature=recorded["temperature"],
        temperature_schedule="official",
    )
    draws = OfficialDraws(torch.Generator().manual_seed(recorded["seed"]), (len(CAPTIONS), model.num_image_tokens))
    monkeypatch.setattr(generation, "inverse_cdf", draws.categorical)
    monkeypatch.setattr(generation, "_gumbel", draws.gumbel)
    found = generation._decode(model, CAPTIONS, own, draws.places.expand(-1, own.steps, -1, -1))
    assert torch.equal(found, tensors[f"t2i_generate_{name}.tokens"])


def test_greedy_caption_is_the_official_one():
    found = sample_texts(
        golden_model(),
        golden_image(),
        torch.tensor([0]),
        [QUESTION],
        decodings=[GREEDY],
        max_new_tokens=16,
        generators=[generator(0)],
    )
    official = [i for i in reference()[1]["mmu.greedy_16"] if i < 512]
    assert found == [" ".join(map(str, official))]


def test_linear_temperature_is_the_schedule_and_official_decays_cumulatively():
    assert generation._temperatures(2.0, 4, "linear") == [1.5, 1.0, 0.5, 0.0]
    assert generation._temperatures(2.0, 4, "official") == pytest.approx([1.5, 0.75, 0.1875, 0.0])


def test_an_image_does_not_depend_on_its_batch_mates(small):
    captions = ["w1 w2", "w3 w4 w5 w6 w7", "w1 w2", "w9"]
    together = generate_images(small, captions, settings=settings(), generators=[generator(i) for i in range(4)])
    for i, caption in enumerate(captions):
        alone = generate_images(small, [caption], settings=settings(), generators=[generator(i)])
        assert torch.equal(alone[0], together[i])
    assert not torch.equal(together[0], together[2])  # one caption, two generators
    assert together.min() >= 0
    assert together.max() < small.codebook_size


def test_a_text_does_not_depend_on_its_batch_mates(small):
    codes = torch.randint(16, (2, 9), generator=torch.Generator().manual_seed(0))
    owners, prompts = torch.tensor([0, 1, 1, 0, 0]), ["w1", "w2 w3 w4", "w1", "w1", "w1"]
    decodings = [GREEDY, HOT, HOT, HOT, Decoding(top_k=2, temperature=0.7)]
    together = sample_texts(
        small,
        codes,
        owners,
        prompts,
        decodings=decodings,
        max_new_tokens=12,
        generators=[generator(i) for i in range(5)],
    )
    for i in range(5):
        alone = sample_texts(
            small,
            codes[owners[i]][None],
            torch.tensor([0]),
            [prompts[i]],
            decodings=[decodings[i]],
            max_new_tokens=12,
            generators=[generator(i)],
        )
        assert alone == [together[i]]
    assert together[2] != together[3]


def test_greedy_text_does_not_read_chance(small):
    codes = torch.zeros(1, 9, dtype=torch.int64)
    texts = [
        sample_texts(
            small, codes, torch.tensor([0]), ["w1"], decodings=[GREEDY], max_new_tokens=8, generators=[generator(seed)]
        )
        for seed in range(3)
    ]
    assert texts[0] == texts[1] == texts[2]


class Script:
    """A model that says fixed texts: row i ends after i + 1 tokens; counts the rows it is asked for."""

    end_token, text_rows, naming = 0, 1000, nullcontext

    def __init__(self):
        self.batches = []

    def text_session(self, codes, owners, prompts):
        session = SimpleNamespace(left=owners + 1, logits=None)

        def logits():
            self.batches.append(len(session.left))
            wanted = torch.where(session.left > 0, 1, 0)
            return torch.nn.functional.one_hot(wanted, 5).float() * 50

        def step(tokens):
            session.left = session.left - 1
            return logits()

        def keep(rows):
            session.left = session.left[rows]

        session.logits, session.step, session.keep = logits(), step, keep
        return session

    def detokenize(self, ids):
        return " ".join(str(i) for i in ids if i != self.end_token)


def test_rows_end_at_their_end_token_and_leave():
    script, size = Script(), 8
    texts = sample_texts(
        script,
        torch.zeros(size, 4, dtype=torch.int64),
        torch.arange(size),
        ["q"] * size,
        decodings=[HOT] * size,
        max_new_tokens=20,
        generators=[generator(i) for i in range(size)],
    )
    assert texts == [" ".join(["1"] * (i + 1)) for i in range(size)]
    assert len(script.batches) == size + 1  # stops with the last row
    assert script.batches[-1] <= 2  # and does not carry the ended ones


def test_texts_stop_at_the_maximum():
    texts = sample_texts(
        Script(),
        torch.zeros(8, 4, dtype=torch.int64),
        torch.tensor([7]),
        ["q"],
        decodings=[HOT],
        max_new_tokens=3,
        generators=[generator(0)],
    )
    assert texts == ["1 1 1"]


def test_top_k_is_kept_per_row():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(3000, 1)
    top_k = torch.tensor([1, 2, 3]).repeat(1000)
    uniforms = torch.rand(3000, generator=torch.Generator().manual_seed(0))
    tokens = sampling._draw_top_k(logits, top_k, torch.ones(3000), uniforms)
    for k in (1, 2, 3):
        assert set(tokens[top_k == k].tolist()) == set(range(k))
    share = (tokens[top_k == 2] == 0).float().mean().item()
    assert share == pytest.approx(math.e / (1 + math.e), abs=0.05)


def test_temperature_flattens_the_draw():
    logits = torch.tensor([[2.0, 0.0]]).repeat(4000, 1)
    heat = torch.tensor([0.5, 2.0]).repeat(2000)
    uniforms = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    tokens = sampling._draw_top_k(logits, torch.full((4000,), 2), heat, uniforms)
    for value in (0.5, 2.0):
        expected = 1 / (1 + math.exp(-2 / value))
        assert (tokens[heat == value] == 0).float().mean().item() == pytest.approx(expected, abs=0.03)


def test_inverse_cdf_follows_the_weights_and_never_takes_weight_zero():
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0])
    uniforms = torch.linspace(0, 1 - 2**-24, 4001)
    found = inverse_cdf(weights.expand(4001, 5), uniforms)
    assert found.bincount(minlength=5).tolist() == pytest.approx([0, 1000, 0, 3001, 0], abs=1)
    assert inverse_cdf(weights[None], torch.tensor([1 - 2**-24])).item() == 3


def test_the_schedule_masks_at_least_one_and_fewer_every_step():
    masked = torch.ones(1, 9, dtype=torch.bool)
    counts = []
    for step in range(8):
        count = generation._count_masked(step, 8, 9, masked)
        masked = generation._least_confident(torch.rand(1, 9), masked, count)
        counts.append(int(masked.sum()))
    assert counts == [8, 7, 6, 5, 4, 3, 1, 1]  # floor(9 cos(ratio pi / 2)), but at least one fewer, and at least one


def test_only_masked_places_are_masked_again():
    confidence = torch.tensor([[-5.0, -1.0, -2.0, -3.0]])
    masked = torch.tensor([[False, True, True, True]])
    found = generation._least_confident(confidence, masked, torch.tensor([2]))
    assert found.tolist() == [[False, False, True, True]]


def test_one_step_draws_every_code_from_its_own_distribution(small):
    """The frequencies over many rows are the model's probabilities."""
    captions = ["w1"] * 400
    drawn = generate_images(
        small, captions, settings=settings(steps=1, guidance=0.0), generators=[generator(i) for i in range(400)]
    )
    everything = torch.ones(1, 9, dtype=torch.bool)
    logits = small.image_session(["w1"], guidance=0.0).logits(torch.zeros(1, 9, dtype=torch.int64), everything)
    expected = logits[0].softmax(dim=-1)
    found = torch.stack([drawn[:, j].bincount(minlength=16) / 400 for j in range(9)])
    assert (found - expected).abs().max() < 0.1


def test_rows_without_their_own_generator_are_refused(small):
    with pytest.raises(ValueError, match="as many generators"):
        generate_images(small, ["w1", "w2"], settings=settings(), generators=[generator(0)])
    with pytest.raises(ValueError, match="as many prompts"):
        sample_texts(
            small,
            torch.zeros(1, 9, dtype=torch.int64),
            torch.tensor([0, 0]),
            ["w1"],
            decodings=[GREEDY] * 2,
            max_new_tokens=2,
            generators=[generator(0)] * 2,
        )


def test_no_rows_give_no_texts(small):
    codes, owners = torch.zeros(1, 9, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    assert sample_texts(small, codes, owners, [], decodings=[], max_new_tokens=2, generators=[]) == []


@pytest.fixture
def crowded(small, monkeypatch):
    """The same model with room for two texts, or one image, at a time."""
    one = capacity.SESSION_BYTES // small.text_rows
    monkeypatch.setattr(capacity, "SESSION_BYTES", 2 * one + 1)
    monkeypatch.setattr(capacity, "image_rows", lambda **_: 1)
    assert (small.text_rows, small.image_rows) == (2, 1)
    return small


def test_sessions_are_as_equal_as_may_be():
    assert [(s.start, s.stop) for s in sessions(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert [(s.start, s.stop) for s in sessions(9, 8)] == [(0, 5), (5, 9)]
    assert list(sessions(0, 4)) == []


def test_rows_that_have_no_room_together_come_out_the_same(small, request):
    codes = torch.randint(0, small.codebook_size, (3, small.num_image_tokens), generator=generator("codes"))
    owners, prompts = torch.tensor([2, 0, 2, 1, 0]), ["w1", "w2", "w1 w3", "w1", "w2"]

    def everything():
        texts = sample_texts(
            small,
            codes,
            owners,
            prompts,
            decodings=[GREEDY, HOT, HOT, GREEDY, HOT],
            max_new_tokens=6,
            generators=[generator("text", k) for k in range(5)],
        )
        images = generate_images(
            small, ["w1", "w2", "w1"], settings=settings(), generators=[generator("image", k) for k in range(3)]
        )
        asked = [Question(p, ("w1", "w2 w3", "w4"), "w4", "object") for p in prompts]
        return texts, images, vqa_likelihood(small, codes, owners, asked), vqa_probability(small, codes, owners, asked)

    together = everything()
    request.getfixturevalue("crowded")
    apart = everything()
    assert apart[0] == together[0]
    assert torch.equal(apart[1], together[1])
    assert apart[2] == together[2]
    assert apart[3] == pytest.approx(together[3], rel=1e-4)


def test_a_bigger_model_has_room_for_fewer():
    sizes = {"layers": 24, "hidden_size": 2048, "num_image_tokens": 1024, "max_text_tokens": 128}
    assert capacity.text_rows(**sizes, element_size=4) == capacity.text_rows(**sizes, element_size=2) // 2
    held = capacity.image_rows(num_image_tokens=1024, codebook_size=8192) * 3 * 4 * 1024 * 8192
    assert 0.95 * capacity.SESSION_BYTES < held <= capacity.SESSION_BYTES
    assert capacity.image_rows(num_image_tokens=10**6, codebook_size=8192) == 1
