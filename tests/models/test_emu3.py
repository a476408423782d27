"""Emu3 against the numbers of its official classes (tests/goldens/README.md)."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import logsigmoid
from transformers import Emu3ForConditionalGeneration

from hermesflow.config.load import load_config
from hermesflow.config.sections import Decoding, ImageSampling, Source
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.models import backbone
from hermesflow.models.conversion import converted
from hermesflow.models.emu3.costs import Decoder
from hermesflow.models.emu3.prompting import TokenIds
from hermesflow.models.emu3.released import IMAGES, RANKS, released_tokenizer
from hermesflow.models.emu3.vq import ImageVQ
from hermesflow.selfplay.sampling import sample_tokens
from tests.support.emu3_golden import (
    GRID,
    IDS,
    VQ,
    golden_model,
    golden_tokenizer,
    official_weights,
    prompt_ids,
    reference,
    text_of,
    write_tokenizer,
)

CONFIGS = Path(__file__).parents[2] / "config"
SMOKE = load_config(CONFIGS / "smoke.yaml")
SETTINGS = ImageSampling(n=1, steps=1, guidance=2.0, temperature=0.0, temperature_schedule="linear")


@pytest.fixture(scope="module")
def model():
    return golden_model()


@pytest.fixture(scope="module")
def tensors():
    return reference()[0]


@pytest.fixture(scope="module")
def facts():
    return reference()[1]


def drawing():
    return text_of(prompt_ids("generation")[0])


def codes_of(tensors, *names):
    return torch.stack([tensors[f"a_codes_{name}"].flatten() for name in names])


def norm(model, value):
    model.zero_grad()
    value.backward()
    return torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()


# weights


def test_weights_by_formula_are_those_recorded(facts):
    weights = official_weights("llm")
    for name, (total, absolute) in facts["weights"]["checks"].items():
        values = weights[name].double()
        assert values.sum().item() == pytest.approx(total, rel=1e-6, abs=1e-5), name
        assert absolute in (
            pytest.approx(values.abs().sum().item(), rel=1e-6),
            pytest.approx(values.square().sum().item(), rel=1e-6),
        ), name


def test_official_names_become_those_of_transformers(facts):
    expected = facts["key_map_official_to_transformers"]
    named = golden_model().from_released({name: name for name in facts["weights"]["llm_names_shapes"]})
    assert named == {expected[name]: name for name in facts["weights"]["llm_names_shapes"]}
    for official in facts["weights"]["vq_names_shapes"]:
        [name] = ImageVQ.from_released({official: torch.zeros(1, 1)})
        assert f"model.vqmodel.{name}" == expected.get(official, f"model.vqmodel.{name}")


# text tokenizer


def test_official_text_tokenizers_are_read_as_they_are(tmp_path, facts):
    tokenizer = released_tokenizer(write_tokenizer(tmp_path))
    assert TokenIds.of(tokenizer, codes=256, vocabulary=None) == IDS
    for kind in ("understanding", "generation", "negative", "empty"):
        text, ids = (facts["prompts"][f"{kind}_{what}"] for what in ("text", "ids"))
        parts = re.split(r"(<\|.*?\|>)", text)
        plain = [[tokenizer.id_of(part)] if "<|" in part else tokenizer.encode([part])[0] for part in parts]
        assert [token for part in plain for token in part] == ids
    for kind in "wl":
        ids = facts["prompts"][f"caption_ids_{kind}"][:-1]
        assert tokenizer.encode([f" {facts['prompts'][f'caption_{kind}']}"]) == [ids]
        assert tokenizer.decode(ids) == facts["prompts"][f"caption_{kind}"]
    spelt = "<|image end|>" + tokenizer.boundary_token
    assert not {IDS.eoi, IDS.eos} & set(tokenizer.encode([spelt])[0])
    assert tokenizer.encode(["cafe\u0301"]) == tokenizer.encode(["caf\u00e9"])


def test_text_tokenizers_that_transformers_converted_have_the_same_ids(tmp_path):
    """Their first spare token is the placeholder of an image, which is called so."""
    plain = json.loads(released_tokenizer(write_tokenizer(tmp_path / "official"))._backend.to_str())
    for token in plain["added_tokens"]:
        token["content"] = token["content"].replace("<|extra_0|>", "<image>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|extra_204|>"}))
    assert TokenIds.of(released_tokenizer(tmp_path), codes=256, vocabulary=None) == IDS


def test_damaged_text_tokenizers_are_refused(tmp_path):
    ranks, images = tmp_path / RANKS, write_tokenizer(tmp_path) / IMAGES
    whole = ranks.read_bytes()
    for damaged in (
        whole.replace(b" 7\n", b" seven\n"),
        whole.replace(b"BA== 4", b"BA= 4"),
        whole.replace(b"BA== 4", b""),
    ):
        ranks.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"emu3\.tiktoken: line [58] "):
            released_tokenizer(tmp_path)
    ranks.write_bytes(whole)
    images.unlink()
    with pytest.raises(ConfigError, match=IMAGES):
        released_tokenizer(tmp_path)


# understanding


@torch.inference_mode()
def test_logits_at_every_place_of_a_prompt(model, tensors, facts):
    ids = torch.tensor([facts["prompts"]["understanding_ids"]])
    size = ids.shape[1]
    causal = torch.ones(1, 1, size, size, dtype=torch.bool).tril()
    hidden = model.hidden(ids, causal, positions=torch.arange(size)[None])
    torch.testing.assert_close(model.lm_head(hidden), tensors["b_logits"], atol=2e-5, rtol=1e-5)


def test_what_stands_in_front_of_a_text_is_the_recorded_prompt(model, tensors, facts):
    ids = facts["prompts"]["understanding_ids"]
    states = model.image_states(codes_of(tensors, "A"))
    begin = ids.index(IDS.eoi)
    assert states.shape[1] == begin == model.image_prefix
    assert torch.equal(states[0], model.embed(torch.tensor(ids[:begin])))


def test_greedy_texts(model, tensors):
    session = model.text_session(codes_of(tensors, "A"), torch.tensor([0, 0]), [model.caption_prompt] * 2)
    torch.testing.assert_close(session.logits[0], tensors["b_logits"][0, -1], atol=2e-5, rtol=1e-5)
    texts = []
    for _ in range(12):
        texts.append(session.logits.argmax(dim=1))
        session.step(texts[-1])
    for written in torch.stack(texts, dim=1):
        assert torch.equal(written, tensors["b_greedy12"][0])


def test_texts_are_written_without_codes(model, tensors):
    """The recorded greedy text, which nothing constrains, has some."""
    free = tensors["b_greedy12"][0]
    assert (free >= IDS.first_code).any()
    [ids] = sample_tokens(
        model,
        codes_of(tensors, "A"),
        torch.tensor([0]),
        [model.caption_prompt],
        decodings=[Decoding(top_k=1, temperature=1.0)],
        max_new_tokens=12,
        generators=[torch.Generator()],
    )
    assert not set(ids) & set(model.no_text) and IDS.eos not in model.no_text
    same = 0
    while free[same] < IDS.first_code:
        assert ids[same] == free[same]
        same += 1


def test_completions_and_their_gradient(model, tensors, facts):
    seen = codes_of(tensors, "A")
    texts = [text_of(facts["prompts"][f"caption_ids_{kind}"][:-1]) for kind in "wl"]
    logps = model.text_logps(seen, [model.caption_prompt] * 2, texts, owners=torch.zeros(2, dtype=torch.int64))
    expected = torch.stack([tensors[f"b_token_logp_{kind}"].sum() for kind in "wl"])
    torch.testing.assert_close(logps, expected, atol=1e-4, rtol=1e-6)
    for kind, logp in zip("wl", logps.tolist(), strict=True):
        assert logp == pytest.approx(facts["b"][kind]["sum_logp_incl_eos"], abs=1e-4)
    assert norm(model, logps[0]) == pytest.approx(facts["b"]["w"]["grad_norm_of_sum_logp_incl_eos"], rel=1e-5)


# generation


@pytest.mark.parametrize("negative", ["negative", "empty"])
def test_guided_scores_and_greedy_codes(tensors, negative):
    model, codes = golden_model(negative=negative), tensors[f"c_greedy_codes_{negative}"].flatten()
    session = model.image_session([drawing()], guidance=2.0)
    for place in range(2):
        # the official scores are of log-softmaxes: a constant apart, which no soft-max over the codes sees
        found, expected = session.logits[0], tensors[f"c_guided_scores_first2_{negative}"][place]
        torch.testing.assert_close(found - found.mean(), expected - expected.mean(), atol=2e-5, rtol=0)
        session.step(codes[[place]])
    images = model.generate_images([drawing()] * 2, settings=SETTINGS, generators=[torch.Generator()] * 2)
    assert torch.equal(images, torch.stack([codes, codes]))
    tokens = model.ids.image_rows(codes[None], GRID[1])[0, 1:]
    assert [*tokens.tolist(), IDS.eoi, IDS.eos] == tensors[f"c_greedy_tokens_{negative}"].tolist()


@torch.inference_mode()
def test_rows_of_one_session_may_have_different_prompts(tensors):
    model, short = golden_model(negative="empty"), text_of(prompt_ids("generation")[0][:9])
    prompts = [drawing(), short, drawing()]
    images = model.generate_images(prompts, settings=SETTINGS, generators=[torch.Generator()] * 3)
    assert torch.equal(images[0], tensors["c_greedy_codes_empty"].flatten()) and torch.equal(images[0], images[2])
    alone = model.generate_images([short], settings=SETTINGS, generators=[torch.Generator()])
    assert torch.equal(images[1], alone[0]) and not torch.equal(images[1], images[0])


@pytest.mark.parametrize(
    ("name", "kind"), [("A", "A"), ("random", "given"), ("random2", "given2"), (None, "greedy_negative")]
)
def test_log_probs_of_given_codes_and_their_gradient(model, tensors, facts, name, kind):
    codes = codes_of(tensors, name) if name else tensors["c_greedy_codes_negative"].flatten(1)
    expected = facts["c"]["teacher_forced"][kind]
    [(_, values)] = model._grouped_code_logps(model.generation_prompts(model.image_texts([drawing()])), codes, None)
    recorded = tensors[f"c_logp_{kind}"][tensors["c_visual_mask"]]
    torch.testing.assert_close(values[0], recorded, atol=2e-5, rtol=1e-5)
    [logp] = model.image_logps([drawing()], codes, None)
    assert logp.item() == pytest.approx(expected["sum_logp_visual_full_vocab"], abs=1e-4)
    assert norm(model, logp) == pytest.approx(expected["grad_norm_of_sum_logp_visual_full_vocab"], rel=1e-5)


@torch.inference_mode()
def test_log_probs_of_what_is_drawn_are_over_the_codes_alone(model, tensors, facts):
    session, total = model.image_session([drawing()], guidance=0.0), 0.0
    for code in codes_of(tensors, "random")[0]:
        total += session.logits.log_softmax(dim=1)[0, code].item()
        session.step(code[None])
    expected = facts["c"]["teacher_forced"]["given"]["sum_logp_visual_over_visual_tokens_only"]
    assert total == pytest.approx(expected, abs=1e-4)


def test_the_mean_over_codes_is_the_loss_and_an_empty_prompt_has_no_text(model, tensors, facts):
    codes = codes_of(tensors, "A", "random")
    loss = model.image_loss([drawing(), ""], codes, None)
    one = facts["c"]["official_training_loss_image_A_mean"]
    assert model.image_loss([drawing()], codes[:1], None).item() == pytest.approx(one, rel=1e-6)
    empty = model.image_logps([""], codes[1:], None).item()
    assert loss.item() == pytest.approx((one - empty / 12) / 2, rel=1e-5)
    assert model.generation_prompts([[]])[0] == facts["prompts"]["empty_ids"][:-1]


# image tokenizer


@torch.inference_mode()
def test_codes_and_pixels_are_the_official_ones(tensors):
    network = golden_tokenizer()
    for name in "AB":
        pixels, codes = tensors[f"pixel_values_{name}"], codes_of(tensors, name)
        torch.testing.assert_close(network.latents(pixels), tensors[f"a_latent_{name}"][:, 0], atol=1e-5, rtol=1e-5)
        assert torch.equal(network.encode(pixels), codes)
        decoded = network.decode(codes, grid=GRID)
        torch.testing.assert_close(decoded, tensors[f"d_decoded_{name}_raw"], atol=1e-5, rtol=0)
        torch.testing.assert_close(network(pixels).pixels, decoded, atol=1e-5, rtol=0)
    for name, codes in (("decoded_random", codes_of(tensors, "random")), ("generated", None)):
        codes = tensors["c_greedy_codes_negative"].flatten(1) if codes is None else codes
        torch.testing.assert_close(network.decode(codes, grid=GRID), tensors[f"d_{name}_raw"], atol=1e-5, rtol=0)


def test_training_from_scratch_tells_tiles_apart():
    """Random first weights of the layers between frames leave nothing of a small tile: a quarter had its own code."""
    tiles = np.random.default_rng(0).integers(0, 256, (48, 12, 12, 3), dtype=np.uint8)
    config = replace(SMOKE, tokenizer_training=replace(SMOKE.tokenizer_training, steps=40))
    codec, history = backbone.train_codec(config_of_family(config), tiles)
    assert history["different_codes"].iloc[-1] > 0.9
    assert len(codec.encode(tiles).unique(dim=0)) > 0.9 * len(tiles)


def config_of_family(config):
    return replace(config, language_model=replace(config.language_model, family="emu3"))


def test_batch_normalisations_of_the_tokenizer_never_change():
    network = golden_tokenizer().train()
    kept = {name: x.clone() for name, x in network.state_dict().items() if "running" in name}
    assert kept
    pixels = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    done, alone = network(pixels), network(pixels[:1])
    torch.testing.assert_close(done.pixels[:1], alone.pixels, atol=1e-5, rtol=0)
    done.pixels.sum().backward()
    assert all(p.grad is not None for p in network.decoder.parameters())
    assert all(torch.equal(network.state_dict()[name], x) for name, x in kept.items())


# Pair-DPO


def test_pair_dpo(tensors, facts):
    expected, logps = facts["e"], {}
    texts = [text_of(facts["prompts"][f"caption_ids_{kind}"][:-1]) for kind in "wl"]
    codes, owners = codes_of(tensors, "random", "random2"), torch.zeros(2, dtype=torch.int64)
    for name in ("ref", "policy"):
        model = golden_model(policy=name == "policy")
        seen = codes_of(tensors, "A")
        captions = model.text_logps(seen, [model.caption_prompt] * 2, texts, owners=owners)
        logps[name] = torch.cat([captions, model.image_logps([drawing()], codes, None, owners=owners)])
        recorded = torch.tensor(list(expected[f"{name}_logp"].values()))
        torch.testing.assert_close(logps[name], recorded, atol=1e-4, rtol=1e-6)
    change = logps["policy"] - logps["ref"].detach()
    deltas = change[0::2] - change[1::2]
    recorded = torch.tensor([expected["delta_und"], expected["delta_gen"]])
    torch.testing.assert_close(deltas, recorded, atol=1e-4, rtol=0)
    loss = -logsigmoid(expected["beta"] * deltas).sum()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    assert norm(model, loss) == pytest.approx(expected["grad_norm"], rel=1e-5)
    gradients = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    for official, value in expected["grad_norm_per_tensor"].items():
        assert gradients[facts["key_map_official_to_transformers"][official]] == pytest.approx(value, rel=1e-4)


# files


def sized(**keys):
    """A config with the sizes of a model: by default the recorded ones, but for the grid."""
    language = {"hidden_size": 64, "layers": 2, "heads": 4, "key_value_heads": 2, "intermediate_size": 160, **keys}
    return replace(
        SMOKE,
        data=replace(SMOKE.data, image_size=32),
        image_tokenizer=VQ,
        language_model=replace(SMOKE.language_model, family="emu3", **language),
    )


def test_released_weights_are_taken_under_either_name(tmp_path):
    config = sized()
    model = backbone.new_model(config, seed=1)
    own = model.state_dict()
    official = {name.replace("model.text_model.", "model."): x for name, x in own.items()}
    whole = {**own, "model.vqmodel.quantize.embedding.weight": torch.zeros(256, 4)}
    hub = {f"text_model.{name}": x for name, x in official.items()}  # as transformers released them
    hub["vqmodel.quantize.embedding.weight"] = torch.zeros(256, 4)
    for kind, weights in (("own", own), ("official", official), ("whole", whole), ("hub", hub)):
        folder = tmp_path / kind
        folder.mkdir()
        save_file(weights, folder / "weights.safetensors")
        source = Source(folder=str(folder), files={"weights.safetensors": None})
        taken = converted(source, backbone.meta_model(config), cache=tmp_path / "converted")
        assert (taken == folder / "weights.safetensors") == (kind == "own")
        found = load_file(taken)
        assert found.keys() == own.keys() and all(torch.equal(found[name], x) for name, x in own.items())


def test_released_image_tokenizers_are_taken_under_either_name(tmp_path, tensors):
    official = official_weights("vq")
    own, codec = ImageVQ.from_released(official), backbone.meta_codec(sized())
    whole = {"lm_head.weight": torch.zeros(2, 2), **{f"model.vqmodel.{name}": x for name, x in own.items()}}
    hub = {"text_model.lm_head.weight": torch.zeros(2, 2), **{f"vqmodel.{name}": x for name, x in own.items()}}
    for kind, weights in (("official", official), ("whole", whole), ("hub", hub)):
        folder = tmp_path / kind
        folder.mkdir()
        save_file(weights, folder / "weights.safetensors")
        source = Source(folder=str(folder), files={"weights.safetensors": None})
        codec.describe(folder / "codec")
        taken = converted(source, codec.network, cache=tmp_path / kind / "converted")
        (folder / "codec" / "model.safetensors").hardlink_to(taken)
        with torch.inference_mode():
            network = backbone.load_codec(folder / "codec", device="cpu").network
            assert torch.equal(network.encode(tensors["pixel_values_A"]), codes_of(tensors, "A"))


def released(folder, **sizes):
    """The released config with an official text tokenizer of some size."""
    config = load_config(CONFIGS / "emu3-stage1.yaml")
    tokenizer = str(write_tokenizer(folder, codes=config.codebook_size, **sizes))
    return replace(config, language_model=replace(config.language_model, text_tokenizer=tokenizer))


def test_names_and_shapes_at_released_size(tmp_path, facts):
    config = released(tmp_path, words=151_643)
    model, network = backbone.meta_model(config), backbone.meta_codec(config).network
    ids, full = model.ids, {key.split()[0]: value for key, value in facts["token_ids_full"].items()}
    assert {name: full[name] for name in ("pad", "eol", "eof", "bos", "eos", "img", "boi", "eoi")} == {
        name: getattr(ids, name) for name in ("pad", "eol", "eof", "bos", "eos", "img", "boi", "eoi")
    }
    assert (ids.first_code, ids.first_code + 32_767, ids.vocabulary) == (151_854, 184_621, 184_622)
    assert Decoder.of(load_config(CONFIGS / "emu3-stage1.yaml")).vocabulary == ids.vocabulary
    assert model.num_image_tokens == 64**2 and model._before_image[2:] == model.tokenizer.encode(["64*64"])[0]
    shapes = facts["full_names_shapes"]
    for part, module in (("llm", model), ("vq", network)):
        [official] = [value for name, value in shapes.items() if name.startswith(part)]
        with torch.device("meta"):
            expected = module.from_released({name: torch.empty(shape) for name, shape in official.items()})
        found = {name: tensor.shape for name, tensor in module.state_dict().items()}
        assert found == {name: tensor.shape for name, tensor in expected.items()}


def test_prompts_of_the_released_config_are_the_official_ones(tmp_path, facts):
    config = released(tmp_path)
    model, size = backbone.meta_model(config), [54, 52, 42, 54, 52]  # "64*64"
    before, after = (model.ids.bos, [model.ids.boi, *size])
    for kind, prompts in (
        ("generation", model.generation_prompts(model.image_texts(["a portrait of a young girl."]))),
        ("negative", model.unconditional_prompts([[]])),
        ("empty", [model.empty_prompt(None, 0)]),
    ):
        ids = facts["prompts"][f"{kind}_ids"]
        assert prompts == [[before, *ids[1 : ids.index(IDS.boi)], *after]]
    assert model._before_image == [before, *after]  # Stage1: nothing around the image
    _, behind = prompt_ids("understanding")  # "Please describe the image" and what Chat has behind it
    [asked] = model.tokenizer.encode([model.caption_prompt])
    assert asked == behind[: len(asked)] and model.tokenizer.decode(behind[len(asked) :]) == ". ASSISTANT:"
    assert model.question_template == "{}"
    images = config.sampling.images
    assert (images.guidance, images.temperature, images.top_k, images.top_p) == (2.0, 1.0, 2048, None)


def test_from_pretrained_reads_what_is_saved(tmp_path):
    model = backbone.new_model(sized(), seed=1)
    model.save(tmp_path)
    whole = Emu3ForConditionalGeneration.from_pretrained(tmp_path)
    state = whole.state_dict()
    own = {name: x for name, x in state.items() if not name.startswith("model.vqmodel.")}
    assert own.keys() == model.state_dict().keys() and len(own) < len(state)
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    assert whole.vocabulary_mapping.image_tokens[0] == model.ids.first_code
