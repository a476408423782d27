"""The stages compute what the plain path computes, benchmarks/plain.py, which runs every row whole for every token."""

import copy
from dataclasses import replace

import pytest
import torch

from bench import plain, sizes
from hermesflow.models.showo.generation import generate_images
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.selfplay.scoring import nearest_choice, vqa_generate, vqa_likelihood
from hermesflow.training.logps import Logps, PairLogps
from hermesflow.training.pair_dpo import step_loss

FEW = {"medium": {"questions": 4, "pairs": 1}, "tiny": {}}
"""Less of the works than the bench does."""
CLOSE = 1e-4


@pytest.fixture(scope="module", params=["tiny", "medium"])
def size(request):
    return replace(sizes.SIZES[request.param], **FEW[request.param])


@pytest.fixture(scope="module")
def random(size):
    return sizes.random_model(size)


@pytest.fixture
def model(random):
    end = random.end_token
    yield random
    random.end_token = end


def is_tiny(size):
    return size is not None and size.shape.layers == 2


def texts_of_both(size, model, tokens):
    """Three texts, two of them about one image, after prompts of unequal lengths; the first greedy."""
    images, owners = sizes.images(size, 2), [1, 0, 1]
    prompts, ways = [sizes.text(words, "asked") for words in (4, 9, 4)], sizes.decodings(3)
    ours = sample_texts(
        model,
        images,
        torch.tensor(owners),
        prompts,
        decodings=ways,
        max_new_tokens=tokens,
        generators=sizes.generators(3),
    )
    rows = zip(owners, prompts, ways, sizes.generators(3), strict=True)
    theirs = [
        plain.write_text(model, images[owner], prompt, decoding=way, max_new_tokens=tokens, generator=generator)
        for owner, prompt, way, generator in rows
    ]
    return ours, theirs


def test_written_tokens_are_equal(size, model):
    tokens = 20 if is_tiny(size) else 4
    ours, theirs = texts_of_both(size, model, tokens)
    assert ours == [model.detokenize(row) for row in theirs]
    assert all(len(row) == tokens for row in theirs)
    assert len(set(ours)) == 3


def test_texts_that_end_leave_the_others_as_they_are(size, model):
    if not is_tiny(size):
        pytest.skip("the same code; the plain path takes long")
    _, theirs = texts_of_both(size, model, 20)
    model.end_token = theirs[1][5]
    ours, ended = texts_of_both(size, model, 20)
    assert ours == [model.detokenize(row) for row in ended]
    assert len(ended[1]) <= 5 < max(map(len, ended))


def test_free_answers_choose_the_same(size, model):
    image, asked, tokens = sizes.images(size, 1), sizes.questions(size), 8 if is_tiny(size) else 2
    owners, encoder = torch.zeros(len(asked), dtype=torch.int64), sizes.WordEncoder()
    told = []
    answers = [plain.answer(model, image[0], q.question, max_answer_tokens=tokens) for q in asked]
    texts = [model.detokenize(answer) for answer in answers]
    encoder.encode = lambda texts, encode=encoder.encode: (told.append(texts), encode(texts))[1]
    ours = vqa_generate(model, image, owners, asked, encoder=encoder, max_answer_tokens=tokens)
    assert ours == nearest_choice(texts, [q.choices for q in asked], sizes.WordEncoder())
    assert set(texts) <= set(told[0])  # the answers too are the same to the last token
    assert len({q.choices.index(choice) for q, choice in zip(asked, ours, strict=True)}) > 1


def test_likelihood_chooses_the_same(size, model):
    images, count = sizes.images(size, 2), 10 if is_tiny(size) else 3
    owners = torch.arange(count) % 2
    asked = [  # choices of one length, or the shortest is always the likeliest
        sizes.question(sizes.text(3 + k, "asked"), tuple(sizes.text(2, k, choice) for choice in "abc"))
        for k in range(count)
    ]
    ours = vqa_likelihood(model, images, owners, asked)
    assert ours == [plain.likeliest_choice(model, images[o], q) for o, q in zip(owners, asked, strict=True)]
    assert len({q.choices.index(choice) for q, choice in zip(asked, ours, strict=True)}) > 1


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_drawn_codes_are_equal(size, model, guidance):
    captions = [sizes.text(words, "drawn") for words in ((5, 17, 5) if is_tiny(size) else (5, 40))]
    settings, count = sizes.drawing(6 if is_tiny(size) else 2, guidance=guidance), len(captions)
    ours = generate_images(model, captions, settings=settings, generators=sizes.generators(count))
    theirs = plain.draw_images(model, captions, settings=settings, generators=sizes.generators(count))
    if is_tiny(size) or not guidance:
        assert torch.equal(ours, theirs)
    else:  # guidance 5 magnifies rounding elevenfold: of 512 draws of 8,192 codes three fell on the other side of a cut
        assert (ours != theirs).float().mean() < 0.02
    assert not torch.equal(ours[0], ours[-1])  # of one caption, but each row has its own generator


@torch.inference_mode()
def test_text_logps_are_within_1e_4(size, model):
    images, owners = sizes.images(size, 2), torch.tensor([1, 0, 1, 1])
    prompts = [sizes.text(words, "asked") for words in (4, 9, 4, 4)]
    completions = [sizes.text(words, "said") for words in (7, 3, 15, 1)]
    ours = model.text_logps(images, prompts, completions, owners=owners)
    theirs = plain.text_logps(model, images[owners], prompts, completions)
    torch.testing.assert_close(ours, theirs, atol=CLOSE, rtol=0)


@torch.inference_mode()
def test_image_logps_are_within_1e_4(size, model):
    captions = [sizes.text(words, "drawn") for words in (5, 17, 5, 0)]
    codes, masked = sizes.images(size, 4), torch.zeros(4, size.shape.num_image_tokens, dtype=torch.bool)
    for row, count in enumerate((1, 4, 9, 16)):
        masked[row, torch.randperm(masked.shape[1], generator=sizes.generators(4)[row])[:count]] = True
    ours, theirs = model.image_logps(captions, codes, masked), plain.image_logps(model, captions, codes, masked)
    torch.testing.assert_close(ours, theirs, atol=CLOSE, rtol=0)


def test_gradients_of_pair_dpo_are_within_1e_4(size, model):
    batch = sizes.homologous(size, size.pairs)
    batch = batch.batch(batch.rows(size.pairs), device="cpu")
    moved = Logps(*(torch.linspace(-1, 1, size.pairs) * k for k in (1, 2, 3, 4)))
    gradients = {}
    for name, logps_of in {"ours": lambda one: PairLogps(one, "pair")(batch), "plain": None}.items():
        policy = copy.deepcopy(model)
        logps = logps_of(policy) if logps_of else plain.pair_logps(policy, batch)
        # a reference near the policy, or sigma is saturated
        reference = Logps(*(own.detach() + shift for own, shift in zip(logps, moved, strict=True)))
        step_loss(logps, reference, objective="pair", training=sizes.TRAINING)[0].mean().backward()
        gradients[name] = {key: parameter.grad for key, parameter in policy.named_parameters()}
    for key, theirs in gradients["plain"].items():
        ours = gradients["ours"][key]
        assert (ours - theirs).norm() <= CLOSE * theirs.norm(), key
        assert theirs.norm() > 0, key


def test_pair_logps_are_those_of_text_and_image_alone(size, model):
    """The plain path's one pass over padded rows is no other thing than its rows one by one."""
    if not is_tiny(size):
        pytest.skip("the same code; the plain path takes long")
    batch = sizes.homologous(size, size.pairs)
    batch = batch.batch(batch.rows(size.pairs), device="cpu")
    with torch.inference_mode():
        together = plain.pair_logps(model, batch)
        prompts = [model.caption_prompt] * size.pairs
        texts = plain.text_logps(model, batch.seen, prompts, batch.rejected_captions)
        images = plain.image_logps(model, batch.captions, batch.rejected_images, batch.noise)
    torch.testing.assert_close(together.rejected_caption, texts, atol=CLOSE, rtol=0)
    torch.testing.assert_close(together.rejected_image, images, atol=CLOSE, rtol=0)
