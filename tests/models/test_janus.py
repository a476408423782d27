"""Janus against the numbers of its official classes (tests/goldens/README.md)."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import logsigmoid
from transformers import JanusForConditionalGeneration

from hermesflow.config.load import load_config
from hermesflow.config.sections import ImageSampling, Source, VisionTower
from hermesflow.models import backbone
from hermesflow.models.conversion import converted
from hermesflow.models.janus.released import model_names
from hermesflow.models.janus.vq import ImageVQ
from hermesflow.models.next_token.generation import draw
from hermesflow.models.text_tokenizers import load_text_tokenizer
from tests.support.janus_golden import IDS, VQ, golden_model, official_weights, reference, text_of
from tests.support.phi_tokenizer import janus_tokenizer, write_tokenizer

CONFIGS = Path(__file__).parents[2] / "config"
SMOKE = load_config(CONFIGS / "smoke.yaml")
SETTINGS = ImageSampling(n=1, steps=1, guidance=4.0, temperature=0.0, temperature_schedule="linear")
PROMPTS = {"A": "gen.promptA", "B": "gen.promptB"}


@pytest.fixture(scope="module")
def model():
    return golden_model()


@pytest.fixture(scope="module")
def tensors():
    return reference()[0]


def prompt_of(tensors, name):
    """Text of a prompt for an image: without bos and boi."""
    return text_of(tensors[PROMPTS[name]][1:-1])


def norms(model, value, modules):
    model.zero_grad()
    value.backward()
    parts = {}
    for name, part in modules.items():
        gradients = [p.grad for p in model.get_submodule(part).parameters() if p.grad is not None]
        parts[name] = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    every = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    return torch.stack(every).norm().item(), parts


# weights


def test_weights_by_formula_are_those_recorded():
    facts = reference()[1]
    for policy, key in ((False, "sums"), (True, "policy_sums")):
        weights = official_weights(policy=policy)
        for name, total in facts[key].items():
            assert weights[name].double().sum().item() == pytest.approx(total, rel=1e-6, abs=1e-5), name


# understanding


@torch.inference_mode()
def test_features_of_pixels(model, tensors):
    pixels = tensors["und.pixel_values"]
    features = model.model.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(features, tensors["und.vision_features"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.look(pixels), tensors["und.image_embeds"], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_logits_at_every_place_of_a_prompt(model, tensors):
    ids, pixels = tensors["und.prompt0"], tensors["und.pixel_values"][:1]
    states = model.embed(ids)
    states[ids == IDS.image] = model.look(pixels)[0]
    size = len(ids)
    causal = torch.ones(1, 1, size, size, dtype=torch.bool).tril()
    hidden = model.hidden(states[None], causal, positions=torch.arange(size)[None])
    torch.testing.assert_close(model.lm_head(hidden)[0], tensors["und.logits0"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("row", [0, 1])
def test_greedy_texts(tensors, row):
    prompt = tensors[f"und.prompt{row}"].tolist()
    begin, end = prompt.index(IDS.boi), prompt.index(IDS.eoi)
    model = golden_model(before=prompt[1:begin])
    pixels, asked = tensors["und.pixel_values"][[row]], text_of(prompt[end + 1 :])
    session = model.text_session(pixels, torch.tensor([0, 0]), [asked] * 2)  # two rows share the image
    texts = []
    for _ in range(12):
        texts.append(session.logits.argmax(dim=1))
        session.step(texts[-1])
    for written in torch.stack(texts, dim=1):
        assert torch.equal(written, tensors[f"und.greedy{row}"])


def test_completions_and_their_gradient(tensors):
    _, facts = reference()
    losses = []
    model = golden_model()
    for row in (0, 1):
        prompt = tensors[f"und.prompt{row}"].tolist()
        begin, end = prompt.index(IDS.boi), prompt.index(IDS.eoi)
        model.wording = replace(model.wording, text_before_image=text_of(prompt[1:begin]))
        completion = text_of(tensors[f"und.completion{row}"][:-1])
        pixels, asked = tensors["und.pixel_values"][[row]], text_of(prompt[end + 1 :])
        [logp] = model.text_logps(pixels, [asked], [completion])
        torch.testing.assert_close(logp, tensors["und.completion_logps"][row], atol=1e-4, rtol=1e-5)
        losses.append(-logp)
    modules = {name: f"model.{name}" for name in ("vision_model", "aligner", "language_model")}
    norm, parts = norms(model, sum(losses), modules)
    assert norm == pytest.approx(facts["und_grad_norm"], rel=1e-5)
    for name in ("vision_model", "aligner"):  # the head of the texts counts as language_model there
        assert parts[name] == pytest.approx(facts["und_grad_norm_by_module"][name], rel=1e-5), name


# generation


@pytest.mark.parametrize("name", ["A", "B"])
def test_guided_logits_and_greedy_codes(model, tensors, name):
    prompt, greedy = prompt_of(tensors, name), tensors[f"gen.{name}.greedy_codes"]
    for guidance, what in ((4.0, "guided"), (0.0, "cond")):
        session = model.image_session([prompt], guidance=guidance)
        for place in range(3):
            expected = tensors[f"gen.{name}.{what}_logits_first3"][place]
            torch.testing.assert_close(session.logits[0], expected, atol=5e-5, rtol=1e-5)
            session.step(greedy[[place]])
    images = model.generate_images([prompt], settings=SETTINGS, generators=[torch.Generator()])
    assert torch.equal(images[0], greedy)


def test_greedy_codes_of_both_prompts_together(model, tensors):
    prompts = [prompt_of(tensors, name) for name in "ABA"]
    images = model.generate_images(prompts, settings=SETTINGS, generators=[torch.Generator() for _ in prompts])
    expected = [tensors[f"gen.{name}.greedy_codes"] for name in "ABA"]
    assert torch.equal(images, torch.stack(expected))


@pytest.mark.parametrize("name", ["A", "B"])
def test_codes_drawn_by_the_recorded_noise(model, tensors, name):
    noise = tensors[f"gen.{name}.sample_exponential_noise"]
    session = model.image_session([prompt_of(tensors, name)] * 3, guidance=4.0)
    codes = []
    for place in noise:
        codes.append((session.logits.softmax(dim=1) / place).argmax(dim=1))
        session.step(codes[-1])
    assert torch.equal(torch.stack(codes, dim=1), tensors[f"gen.{name}.sampled_codes_seed1234_n3"])


def test_log_probs_of_given_codes_and_their_gradient(model, tensors):
    _, facts = reference()
    codes, prompts = tensors["gen.given_codes"], [prompt_of(tensors, name) for name in "AB"]
    logps = model.image_logps(prompts, codes, None)
    torch.testing.assert_close(logps, tensors["gen.given_cond_logps"], atol=1e-4, rtol=1e-6)
    parts = {"gen_aligner": "generation_aligner", "gen_head": "generation_head", "gen_embed": "generation_embeddings"}
    parts["language_model"] = "language_model"
    norm, found = norms(model, -logps.sum(), {name: f"model.{part}" for name, part in parts.items()})
    assert norm == pytest.approx(facts["gen_grad_norm"], rel=1e-5)
    for name, value in found.items():
        assert value == pytest.approx(facts["gen_grad_norm_by_module"][name], rel=1e-5), name


@torch.inference_mode()
def test_log_probs_without_the_prompt_and_guided(model, tensors):
    codes = tensors["gen.given_codes"]
    padding = [" ".join(["2"] * len(prompt_of(tensors, name).split())) for name in "AB"]
    logps = model.image_logps(padding, codes, None)
    torch.testing.assert_close(logps, tensors["gen.given_uncond_logps"], atol=1e-4, rtol=1e-6)
    session = model.image_session([prompt_of(tensors, name) for name in "AB"], guidance=4.0)
    total = torch.zeros(2)
    for place in codes.T:
        total += session.logits.log_softmax(dim=1).gather(1, place[:, None])[:, 0]
        session.step(place)
    torch.testing.assert_close(total, tensors["gen.given_guided_logps"], atol=1e-3, rtol=1e-6)


def test_the_mean_over_codes_is_the_loss_and_an_empty_prompt_is_padding(model, tensors):
    codes, prompt = tensors["gen.given_codes"], prompt_of(tensors, "B")
    padding = len(prompt_of(tensors, "A").split())
    loss = model.image_loss(["", prompt], codes, torch.tensor([padding, 1]))
    expected = tensors["gen.given_uncond_logps"][0] + tensors["gen.given_cond_logps"][1]
    assert loss.item() == pytest.approx(-expected.item() / 32, rel=1e-5)


def test_top_k_and_top_p_leave_out_the_least_likely():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(1000, -1)
    uniforms = torch.rand(1000, generator=torch.Generator().manual_seed(0))

    def drawn(**keys):
        return set(draw(logits, uniforms, replace(SETTINGS, temperature=1.0, **keys)).tolist())

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {0, 1}
    assert drawn(top_p=0.65) == {0, 1}
    assert drawn(top_p=0.05) == {0}
    shares = draw(logits, uniforms, replace(SETTINGS, temperature=2.0)).bincount() / 1000
    expected = torch.tensor([0.4, 0.3, 0.2, 0.1]).sqrt()
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.05, rtol=0)


# image tokenizer


@torch.inference_mode()
def test_codes_and_pixels_are_the_official_ones(tensors):
    network = ImageVQ(VQ).eval()
    network.load_state_dict(network.from_released(official_weights()), strict=True)
    pixels = tensors["und.pixel_values"]
    torch.testing.assert_close(network.latents(pixels), tensors["vq.pre_quant"], atol=1e-5, rtol=1e-5)
    assert torch.equal(network.encode(pixels), tensors["vq.codes"])
    torch.testing.assert_close(network.decode(tensors["vq.codes"]), tensors["vq.decoded_from_codes"], atol=2e-5, rtol=0)
    torch.testing.assert_close(network(pixels).pixels, tensors["vq.decoded_from_codes"], atol=1e-4, rtol=0)


# Pair-DPO


def test_pair_dpo(tensors):
    facts = reference()[1]["dpo"]
    pixels, completions = tensors["und.pixel_values"][:1], []
    for kind in ("chosen", "rejected"):
        completions.append(text_of(tensors[f"dpo.caption_{kind}"][:-1]))
    codes = torch.stack([tensors["dpo.codes_chosen"], tensors["dpo.codes_rejected"]])
    owners, logps = torch.zeros(2, dtype=torch.int64), {}
    for name in ("reference", "policy"):
        model = golden_model(policy=name == "policy")
        texts = model.text_logps(pixels, [model.caption_prompt] * 2, completions, owners=owners)
        images = model.image_logps([prompt_of(tensors, "A")], codes, None, owners=owners)
        logps[name] = torch.cat([texts, images])
        torch.testing.assert_close(logps[name], tensors[f"dpo.{name}_logps"], atol=1e-4, rtol=1e-6)
    change = logps["policy"] - logps["reference"].detach()
    deltas = change[0::2] - change[1::2]
    torch.testing.assert_close(deltas, tensors["dpo.deltas"], atol=1e-4, rtol=0)
    loss = -logsigmoid(facts["beta"] * deltas).sum()
    assert loss.item() == pytest.approx(facts["loss"], abs=1e-5)
    norm, _ = norms(model, loss, {})
    assert norm == pytest.approx(facts["grad_norm"], rel=1e-5)
    assert math.isclose(deltas[0].item(), facts["delta_und"], abs_tol=1e-4)


# files


def sized(**keys):
    """A config with the sizes of a model: by default the recorded one."""
    language = {"hidden_size": 96, "layers": 3, "heads": 4, "intermediate_size": 192, "vocabulary": 160, **keys}
    vision = VisionTower(hidden_size=64, layers=3, heads=4, intermediate_size=256)
    return replace(
        SMOKE,
        data=replace(SMOKE.data, image_size=64),
        image_tokenizer=VQ,
        language_model=replace(SMOKE.language_model, family="janus", **{"vision": vision, **language}),
    )


@pytest.mark.parametrize("kind", ["bin", "safetensors", "transformers"])
def test_released_weights_are_taken_under_either_name(tmp_path, kind):
    weights = official_weights()
    if kind == "bin":
        torch.save(weights, tmp_path / "weights.bin")
    else:
        save_file(model_names(weights) if kind == "transformers" else weights, tmp_path / "weights.safetensors")
    [path] = tmp_path.iterdir()
    source, cache = Source(folder=str(tmp_path), files={path.name: None}), tmp_path / "converted"
    config = sized()
    model = backbone.meta_model(config)
    taken = converted(source, model, cache=cache)
    assert (taken == path) == (kind == "transformers")
    tokens = tmp_path / "model"
    model.describe(tokens)
    (tokens / "model.safetensors").hardlink_to(taken)
    loaded = backbone.load_model(tokens, device="cpu")
    expected = model_names(weights)
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    codec = backbone.meta_codec(config)
    codec.describe(tmp_path / "codec")
    (tmp_path / "codec" / "model.safetensors").hardlink_to(converted(source, codec.network, cache=cache))
    pixels = reference()[0]["und.pixel_values"]
    with torch.inference_mode():
        codes = backbone.load_codec(tmp_path / "codec", device="cpu").network.encode(pixels)
    assert torch.equal(codes, reference()[0]["vq.codes"])


@pytest.mark.parametrize(("size", "count", "pad"), [("1b", 964, 100_002), ("7b", 1018, 100_015)])
def test_names_and_shapes_at_released_size(tmp_path, size, count, pad):
    config = load_config(CONFIGS / f"janus-pro-{size}.yaml")
    folder = str(write_tokenizer(tmp_path, janus_tokenizer(words=100_000, pad=pad)))
    config = replace(config, language_model=replace(config.language_model, text_tokenizer=folder))
    model = backbone.meta_model(config)
    found = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if size == "1b":
        released = reference()[1]["released_1b"]
        with torch.device("meta"):
            expected = model_names({name: torch.empty(shape) for name, shape in released["state_dict"].items()})
        assert found == {name: tensor.shape for name, tensor in expected.items()}
    else:
        lines = "\n".join(sorted(f"{name} {list(shape)}" for name, shape in found.items()))
        expected = reference()[1]["released_7b"]
        assert sum(shape.numel() for shape in found.values()) == expected["elements"]
        assert hashlib.sha256(lines.encode()).hexdigest() == expected["sha256_of_names_and_shapes"]
    assert len(found) == count and model.num_image_tokens == 576
    network = backbone.meta_codec(config).network
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert own == {name.removeprefix("model.vqmodel."): s for name, s in found.items() if ".vqmodel." in name}
    assert (model.ids.pad, model.ids.boi, model.ids.vocabulary) == (pad, pad + 2, 102_400)


def test_prompts_of_the_released_config_are_the_official_ones(tmp_path):
    """Roles of the chat are one token each, as in the official code; other special tokens in a text are not read."""
    config = load_config(CONFIGS / "janus-pro-1b.yaml")
    folder = str(write_tokenizer(tmp_path, janus_tokenizer()))
    model = backbone.meta_model(replace(config, language_model=replace(config.language_model, text_tokenizer=folder)))
    user, assistant = (model.tokenizer.id_of(f"<|{role}|>") for role in ("User", "Assistant"))
    letters = model.tokenizer.encode
    system = "You are a helpful language and vision assistant. You are able to understand the visual content that"
    before = model._before_image
    assert letters([system])[0] == before[1 : 1 + len(letters([system])[0])] and before[0] == model.ids.bos
    assert before[-4:] == [*letters(["\n\n"])[0][-1:], user, *letters([": "])[0][-2:], model.ids.boi][-4:]
    assert model.image_texts(["a cat"]) == [[user, *letters([": a cat\n\n"])[0], assistant, *letters([":"])[0]]]
    for prompt in (model.caption_prompt, model.question_template.format("why?")):
        ids = letters([prompt])[0]
        assert ids[-2:] == [assistant, *letters([":"])[0]] and user not in ids and model.detokenize(ids)[0] != "<"
    spelt = "<end_of_image>" + model.tokenizer.boundary_token + "<|Assistant|>"
    assert letters([spelt])[0].count(assistant) == 1
    assert not {model.ids.eoi, model.ids.eos} & set(letters([spelt])[0])
    model.describe(tmp_path / "model")
    saved = load_text_tokenizer(tmp_path / "model" / "tokenizer.json", model.tokenizer.boundary_token)
    assert saved.encode([spelt]) == letters([spelt])
    images = config.sampling.images
    assert (images.n, images.guidance, images.temperature, images.top_k, images.top_p) == (16, 4.0, 1.0, None, None)


def test_from_pretrained_reads_what_is_saved(tmp_path):
    model = backbone.new_model(sized(), seed=1)
    model.save(tmp_path)
    whole = JanusForConditionalGeneration.from_pretrained(tmp_path)
    state = whole.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not whole.config.tie_word_embeddings


# training


def test_the_tower_is_trained_from_scratch_and_frozen_once_loaded(tmp_path):
    model = backbone.new_model(sized(), seed=1)
    assert model.frozen == [model.model.vqmodel]
    model.save(tmp_path)
    loaded = backbone.load_model(tmp_path, device="cpu").train()
    assert loaded.frozen == [loaded.model.vqmodel, loaded.model.vision_model]
    assert not any(module.training for part in loaded.frozen for module in part.modules())
    seen = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    loaded.text_logps(seen, [loaded.caption_prompt], ["a red circle"]).sum().backward()
    assert all(p.grad is None for part in loaded.frozen for p in part.parameters())
    assert loaded.model.aligner.fc1.weight.grad is not None
