import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from hermesflow.config.load import load_config
from hermesflow.core.errors import ArtifactError
from hermesflow.models.backbone import load_model, new_model
from hermesflow.models.showo import prompting
from hermesflow.models.showo.model import Shape, ShowO
from tests.support import omni_attention as attention
from tests.support.showo_golden import (
    CAPTIONS,
    GOLDENS,
    QUESTION,
    TINY,
    TableTokenizer,
    golden_image,
    golden_model,
    random_model,
    reference,
)

CONFIG = GOLDENS.parents[1] / "config" / "smoke.yaml"


@pytest.fixture(scope="module")
def golden():
    return golden_model()


@pytest.fixture(scope="module")
def small():
    return random_model()


# official numerics


def test_golden_weights_load_under_official_names(golden):
    weights = load_file(GOLDENS / "showo_tiny" / "model.safetensors")
    assert golden.state_dict().keys() == weights.keys()


def test_released_architecture_has_the_official_names_and_shapes():
    released = Shape(
        hidden_size=2048,
        layers=24,
        heads=32,
        intermediate_size=8192,
        partial_rotary_factor=0.5,
        rope_theta=1e4,
        layer_norm_eps=1e-5,
        max_text_tokens=128,
        num_image_tokens=1024,
        codebook_size=8192,
    )
    tokenizer = TableTokenizer({})
    tokenizer.size, tokenizer.boundary = 50295, 50256
    with torch.device("meta"):
        model = ShowO(released, tokenizer, caption_prompt="", question_template="{}")
    found = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == json.loads((GOLDENS / "showo_1.3b_state_dict_keys.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == 1_448_176_770


@torch.inference_mode()
def test_golden_generation_logits(golden):
    tensors, _ = reference()
    ids = torch.cat([tensors["t2i.input_ids"], tensors["t2i.uncond_input_ids"]])
    logits = golden.head(golden.hidden(ids, tensors["t2i.attention_allowed"]))[:, -65:-1]
    torch.testing.assert_close(logits, tensors["t2i.logits_image_positions"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_golden_guided_logits_from_the_image_session(golden, guidance):
    conditional, unconditional = reference()[0]["t2i.logits_image_positions"][..., 522:778].chunk(2)
    session = golden.image_session(CAPTIONS, guidance=guidance)
    logits = session.logits(torch.zeros(3, 64, dtype=torch.int64), torch.ones(3, 64, dtype=torch.bool))
    expected = (1 + guidance) * conditional - guidance * unconditional
    torch.testing.assert_close(logits, expected.flatten(0, 1), atol=5e-5, rtol=1e-5)


@torch.inference_mode()
def test_golden_understanding_logits(golden):
    tensors, _ = reference()
    hidden = golden.hidden(tensors["mmu.input_ids"], tensors["mmu.attention_allowed"])
    torch.testing.assert_close(golden.head(hidden[:, -1]), tensors["mmu.last_logits"], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_golden_greedy_tokens_by_full_forward(golden):
    tensors, facts = reference()
    ids = tensors["mmu.input_ids"]
    for _ in range(16):
        mask = attention.understanding_mask(67, ids.shape[1] - 67)
        ids = torch.cat([ids, golden.head(golden.hidden(ids, mask)[:, -1:]).argmax(dim=-1)], dim=1)
    assert ids[0, -16:].tolist() == facts["mmu.greedy_16"]


def test_golden_greedy_tokens_by_cached_session(golden):
    tensors, facts = reference()
    session = golden.text_session(golden_image(), torch.tensor([0]), [QUESTION])
    torch.testing.assert_close(session.logits, tensors["mmu.last_logits"], atol=1e-5, rtol=1e-5)
    found = []
    for _ in range(16):
        found.append(session.logits.argmax(dim=-1))
        session.step(found[-1])
    assert torch.cat(found).tolist() == facts["mmu.greedy_16"]


# log-probabilities


def test_image_logps_are_those_of_the_whole_vocabulary_at_masked_places(small):
    codes, masked = _images(3)
    captions = ["w1 w2 w3", "w4", ""]
    found = small.image_logps(captions, codes, masked)
    for i, caption in enumerate(captions):
        prompt = torch.tensor(
            prompting.generation_prompts(small.ids, small.tokenizer.encode([caption]), max_text_tokens=16)
        )
        block = prompting.image_block(small.ids, codes[i : i + 1], masked[i : i + 1])
        mask = attention.generation_mask(torch.tensor([0]), prompt.shape[1], block.shape[1])
        logits = small.head(small.hidden(torch.cat([prompt, block], dim=1), mask))[0, prompt.shape[1] + 1 : -1]
        token_logps = logits.log_softmax(dim=-1)[torch.arange(9), codes[i] + small.ids.first_code]
        torch.testing.assert_close(found[i], token_logps[masked[i]].sum(), atol=1e-5, rtol=1e-5)


def test_image_logps_do_not_read_masked_codes(small):
    codes, masked = _images(1)
    session_input = prompting.image_block(small.ids, codes, masked)
    other = torch.where(masked, (codes + 1) % 16, codes)
    assert torch.equal(session_input, prompting.image_block(small.ids, other, masked))
    assert not torch.equal(small.image_logps(["w1"], codes, masked), small.image_logps(["w1"], other, masked))


def test_text_logps_score_completion_and_end_only(small):
    codes, _ = _images(2)
    prompts, completions = ["w1 w2 w3", "w4"], ["w5", "w6 w7 w8"]
    found = small.text_logps(codes, prompts, completions)
    for i in range(2):
        [prompt, completion] = small.tokenizer.encode([prompts[i], completions[i]])
        text = torch.tensor([[0, *prompt, *completion, 0]])
        ids = torch.cat([prompting.understanding_images(small.ids, codes[i : i + 1]), text], dim=1)
        logps = small.head(small.hidden(ids, attention.understanding_mask(12, text.shape[1])))[0].log_softmax(dim=-1)
        scored = range(12 + 1 + len(prompt), ids.shape[1])
        expected = sum(logps[j - 1, ids[0, j]] for j in scored)
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


def test_texts_that_share_an_image_are_scored_as_if_alone(small):
    codes, _ = _images(2)
    prompts, completions, owners = ["w1", "w4", "w2 w3"], ["w5", "w6", "w7 w8"], torch.tensor([1, 0, 1])
    shared, alone = (
        small.text_logps(codes, prompts, completions, owners=owners),
        small.text_logps(codes[owners], prompts, completions),
    )
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(logps.sum(), list(small.parameters())) for logps in (shared, alone)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_padding_changes_nothing(small):
    codes, masked = _images(2)
    long = " ".join(f"w{i}" for i in range(12))
    alone = small.image_logps(["w3"], codes[:1], masked[:1])
    torch.testing.assert_close(small.image_logps(["w3", long], codes, masked)[:1], alone, atol=1e-5, rtol=0)
    alone = small.text_logps(codes[:1], ["w3"], ["w4"])
    together = small.text_logps(codes, ["w3", "w1"], ["w4", long])[:1]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_trimming_to_the_longest_row_changes_nothing(golden):
    """The official rows are padded to the maximum, ours to the longest row."""
    tensors, _ = reference()
    conditional = tensors["t2i.logits_image_positions"][1:2]
    ids = tensors["t2i.input_ids"][1:2, 6:]  # six columns of padding
    mask = attention.generation_mask(torch.tensor([0]), 27, 66)
    torch.testing.assert_close(golden.head(golden.hidden(ids, mask))[:, -65:-1], conditional, atol=1e-5, rtol=0)


def test_pretraining_losses_are_means_over_tokens_and_over_texts(small):
    codes, masked = _images(2)
    captions, prompts, completions = ["w1 w2", "w3"], ["w0", "w0 w1"], ["w5 w6", "w7"]
    t2i = small.image_loss(captions, codes, masked)
    mmu = small.text_loss(codes, torch.arange(2), prompts, completions)
    expected = -small.image_logps(captions, codes, masked).sum() / masked.sum()
    torch.testing.assert_close(t2i, expected, atol=1e-5, rtol=1e-5)
    expected = -(small.text_logps(codes, prompts, completions) / torch.tensor([3, 2])).mean()
    torch.testing.assert_close(mmu, expected, atol=1e-5, rtol=1e-5)
    (t2i + mmu).backward()
    assert all(p.grad is not None for p in small.parameters())


# sessions


@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("all_masked", [True, False])
def test_image_session_equals_full_forward(small, guidance, all_masked):
    captions = ["w1 w2 w3", "w4", "w1 w2 w3", ""]
    codes, masked = _images(4)
    masked = torch.ones_like(masked) if all_masked else masked
    session = small.image_session(captions, guidance=guidance)
    for _ in range(2):  # the cache must not move between steps
        found = session.logits(codes, masked)
    conditional, unconditional = (_code_logits(small, texts, codes, masked) for texts in (captions, [""] * 4))
    expected = (1 + guidance) * conditional - guidance * unconditional
    torch.testing.assert_close(found, expected[masked], atol=1e-4, rtol=1e-5)


def test_text_session_equals_full_forward(small):
    codes, _ = _images(2)
    owners, prompts = torch.tensor([1, 0, 1, 1]), ["w1 w2 w3", "w4", "w4", "w1 w2 w3"]
    session = small.text_session(codes, owners, prompts)
    rows = list(range(4))
    texts = [[0, *ids] for ids in small.tokenizer.encode(prompts)]
    generator = torch.Generator().manual_seed(0)
    for step in range(40):  # past several growths of the cache
        for place, row in enumerate(rows):
            torch.testing.assert_close(
                session.logits[place], _next_logits(small, codes[owners[row]], texts[row]), atol=1e-4, rtol=1e-5
            )
        if step == 3:
            keep = [0, 2]
            session.keep(torch.tensor(keep))
            rows = [rows[i] for i in keep]
        tokens = torch.randint(2, 20, (len(rows),), generator=generator)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            texts[row].append(token)
        session.step(tokens)


# build, save, load


def test_new_model_depends_on_the_seed_alone():
    config = load_config(CONFIG)
    state = torch.random.get_rng_state()
    first, after = new_model(config, seed=1), torch.random.get_rng_state()
    assert torch.equal(state, after)  # the global generator is left alone
    torch.manual_seed(5)
    second, other = new_model(config, seed=1), new_model(config, seed=2)
    assert _same(first, second)
    assert not _same(first, other)
    assert first.num_image_tokens == config.num_image_tokens
    assert (
        first.detokenize([first.end_token, first.ids.mask, *first.tokenizer.encode(["a red circle"])[0]])
        == "a red circle"
    )


def test_save_and_load_round_trip(tmp_path):
    model = new_model(load_config(CONFIG), seed=1)
    for folder in ("one", "two"):
        model.save(tmp_path / folder)
    loaded = load_model(tmp_path / "one", device="cpu")
    assert _same(model, loaded)
    assert not loaded.training
    assert (loaded.shape, loaded.ids) == (model.shape, model.ids)
    assert (loaded.caption_prompt, loaded.question_template) == (model.caption_prompt, model.question_template)
    assert loaded.tokenizer.encode(["a red circle"]) == model.tokenizer.encode(["a red circle"])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_weights_of_another_shape_are_refused(tmp_path):
    random_model().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["shape"]["layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="same checkpoint"):
        load_model(tmp_path, device="cpu")


def test_model_without_its_tokenizer_is_refused(tmp_path):
    random_model().save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        load_model(tmp_path, device="cpu")


def test_attention_is_never_eager(golden):
    """Eager attention adds a boolean mask to the scores, which is silently wrong."""
    assert golden.showo.config._attn_implementation == "hermesflow"
    assert golden.shape == TINY


def _images(count, *, tokens=9, codebook=16):
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(codebook, (count, tokens), generator=generator)
    masked = torch.rand(count, tokens, generator=generator) < 0.5
    masked[:, 0] = True
    return codes, masked


@torch.inference_mode()
def _code_logits(model, captions, codes, masked):
    rows = []
    for caption, *image in zip(captions, codes, masked, strict=True):
        prompt = torch.tensor(
            prompting.generation_prompts(model.ids, model.tokenizer.encode([caption]), max_text_tokens=16)
        )
        block = prompting.image_block(model.ids, *(x[None] for x in image))
        mask = attention.generation_mask(torch.tensor([0]), prompt.shape[1], block.shape[1])
        rows.append(model.code_head(model.hidden(torch.cat([prompt, block], dim=1), mask)[0, prompt.shape[1] + 1 : -1]))
    return torch.stack(rows)


@torch.inference_mode()
def _next_logits(model, codes, text):
    ids = torch.cat([prompting.understanding_images(model.ids, codes[None]), torch.tensor([text])], dim=1)
    return model.head(model.hidden(ids, attention.understanding_mask(12, len(text))))[0, -1]


def _same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_head_over_codes_is_a_slice_of_the_head(small):
    hidden = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    logits = F.linear(hidden, small.showo.lm_head.weight, small.showo.lm_head.bias)
    torch.testing.assert_close(small.code_head(hidden), logits[:, small.ids.first_code : small.ids.mask])
