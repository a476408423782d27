"""What is trained on is what was sampled: token ids -> text -> token ids, captions that were cut, stored latents."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hermesflow.core.files import read_json, read_table
from hermesflow.core.images import ImageForm, as_stored, as_tensor, read_images, write_images
from hermesflow.core.seeding import generator
from hermesflow.data.microworld.captions import LEXICON
from hermesflow.data.worlds.questions import vocabulary
from hermesflow.models.backbone import load_model
from hermesflow.models.showo.model import ShowO
from hermesflow.models.text_tokenizers import pretrained_tokenizer, word_tokenizer
from hermesflow.report import audit
from hermesflow.selfplay.sampling import sample_tokens
from hermesflow.stages import prefer
from hermesflow.stages.reference import load_pairs
from tests.support.phi_tokenizer import phi_tokenizer, write_tokenizer
from tests.support.selfplay_world import make_world, sample_all, score_all, tiny_config
from tests.support.showo_golden import TINY


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("phi"), phi_tokenizer(words=474))


def model_of(tokenizer):
    torch.manual_seed(0)
    shape = replace(TINY, hidden_size=32, layers=1, heads=2, intermediate_size=64, num_image_tokens=4)
    return ShowO(shape, tokenizer, caption_prompt="Give a caption.", question_template="Q: {} A:").eval()


@pytest.fixture(scope="module")
def byte_pair(phi):
    return model_of(pretrained_tokenizer(phi))


@given(data=st.data())
def test_sampled_ids_come_back_from_the_text_or_are_kept(byte_pair, data):
    """Blanks at the ends, merges, halves of letters, the end token spelled out, image codes: hardly one does."""
    model, end = byte_pair, byte_pair.end_token
    ids = data.draw(st.lists(st.integers(0, model.ids.vocab_size - 1).filter(lambda i: i != end), max_size=12))
    ids += [end] * data.draw(st.booleans())
    if not ids:
        return
    text = model.detokenize(ids)
    completion = text if model.completion_tokens([text]) == [ids] else ids
    assert model.completion_tokens([completion]) == [ids]


KINDS = {
    "no leading space": "a cat",
    "two leading spaces": "  a cat",
    "a trailing space": " a cat ",
    "a line break": " a cat\n",
    "the end spelled out": " a <|endoftext|> cat",
}


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS.keys())
def test_kinds_of_texts_that_are_tokenised_otherwise(byte_pair, text):
    ids = [*byte_pair.tokenize([text])[0], byte_pair.end_token]
    assert ids.count(byte_pair.end_token) == 1  # nothing in the text ends it
    told = byte_pair.completion_tokens([byte_pair.detokenize(ids)])[0]
    assert (told == ids) == (text == KINDS["the end spelled out"])


def test_ids_that_merges_would_join_are_kept(byte_pair):
    one, joined = byte_pair.tokenize(["a", "ab"])[0], byte_pair.tokenize(["ab"])[0]
    assert len(joined) == 1
    ids = [*byte_pair.tokenize([" "])[0], *one, *byte_pair.tokenize(["b"])[0], byte_pair.end_token]
    assert byte_pair.detokenize(ids) == "ab" and byte_pair.completion_tokens(["ab"]) != [ids]


@torch.inference_mode()
def test_log_probs_of_sampled_ids_are_those_of_sampling(byte_pair):
    """A random model samples what no text gives; its likelihood under training is that of the very tokens."""
    model, images = byte_pair, torch.arange(8).view(2, 4)
    prompts, owners, longest = ["Give a caption."] * 6, torch.tensor([0, 0, 0, 1, 1, 1]), 4
    hot = replace(tiny_config().sampling.captions.decodings[0], top_k=model.ids.vocab_size, temperature=1.0)
    generators = [generator("sampled", k) for k in range(6)]
    options = {"decodings": [hot] * 6, "max_new_tokens": longest, "generators": generators}
    rows = sample_tokens(model, images, owners, prompts, **options)
    rows[0] = [*rows[0][:2], model.end_token]
    assert [row for row in rows if model.completion_tokens([model.detokenize(row)]) != [row]]
    session, total = model.text_session(images, owners, prompts), torch.zeros(6)
    logits = session.logits
    for step in range(longest):
        inside = torch.tensor([step < len(row) for row in rows])
        now = torch.tensor([row[step] if step < len(row) else model.end_token for row in rows])
        total += torch.where(inside, logits.log_softmax(dim=1)[torch.arange(6), now], 0.0)
        logits = session.step(now)
    torch.testing.assert_close(model.text_logps(images, prompts, rows, owners=owners), total, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_end_of_a_text_that_was_cut_is_not_scored(byte_pair):
    model, image = byte_pair, torch.arange(4)[None]
    whole = [*model.tokenize([" ab cd"])[0], model.end_token]
    ended, cut, told = (model.text_logps(image, ["Give"], [one])[0] for one in (whole, whole[:-1], "ab cd"))
    assert ended == told < cut
    room = model.room("Give")
    long = [5] * 99
    assert model.text_logps(image, ["Give"], [long]) == model.text_logps(image, ["Give"], [long[:room]])
    assert model.text_logps(image, ["Give"], ["a b " * 50]) == model.text_logps(
        image, ["Give"], [model.tokenize([" " + "a b " * 50])[0][:room]]
    )


@pytest.fixture
def world(phi, tmp_path):
    """A random byte-pair model whose captions nearly all are cut, or no canonical text."""
    config, layout = make_world(tmp_path / "results")
    decodings = tuple(replace(one, top_k=400) for one in config.sampling.captions.decodings)
    captions = replace(config.sampling.captions, decodings=decodings, max_new_tokens=6)
    config = replace(config, sampling=replace(config.sampling, captions=captions))
    folder = layout.checkpoint(0, "base") / "model"
    shape = load_model(folder, device="cpu").shape
    model = ShowO(shape, pretrained_tokenizer(phi), caption_prompt="Give", question_template="Q: {} A:")
    model.showo.lm_head.bias.data[model.end_token] += 2.0  # some end in time
    model.save(folder)
    return config, layout


def test_preferences_carry_the_sampled_ids_into_training_and_count_what_was_cut(world):
    config, layout = world
    made = [sample_all(config, layout, shards=shards) / "captions.parquet" for shards in (1, 3)]
    bytes_of_both = {path.read_bytes() for path in made}
    assert len(bytes_of_both) == 1
    score_all(config, layout, shards=2)
    config = replace(config, preferences=replace(config.preferences, min_image_score=0.0))
    path = layout.checkpoint(0, "base") / "scores" / "images.parquet"  # a random model answers nothing right
    images = pd.read_parquet(path)
    images.assign(score=np.linspace(0.1, 1, len(images))).to_parquet(path)
    prefer.run(config, layout, seed=0, checkpoint="pair-1")
    candidates = read_table(made[0], ["id", "candidate", "caption", "tokens", "cut"])
    model = load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    sampled = {}
    for row in candidates.itertuples():
        tokens = model.completion_tokens([row.caption])[0] if row.tokens is None else row.tokens.tolist()
        assert row.cut == (tokens[-1] != model.end_token)
        assert row.caption == model.detokenize(tokens)
        sampled.setdefault((row.id, row.caption), []).append(tokens)
    assert candidates["cut"].any() and not candidates["cut"].all()

    pairs = load_pairs(config, layout, model, seed=0, checkpoint="pair-1")
    batch = pairs.batch(pairs.rows(len(pairs)), device="cpu")
    table = pd.read_parquet(layout.checkpoint(0, "pair-1") / "preferences" / "preferences.parquet").set_index("id")
    for (pair_id, _), *sides in zip(batch.rows, batch.chosen_captions, batch.rejected_captions, strict=True):
        for side, completion in zip(("chosen", "rejected"), sides, strict=True):
            tokens = model.completion_tokens([completion])[0]
            assert tokens in sampled[pair_id, table.loc[pair_id, f"{side}_caption"]]
    counts = read_json(layout.checkpoint(0, "pair-1") / "preferences" / "counts.json")
    cut = table.merge(
        pd.read_parquet(layout.checkpoint(0, "pair-1") / "preferences" / "captions.parquet")["id"], on="id"
    )
    assert counts["captions"]["cut"]["candidates"] == candidates["cut"].sum()
    assert counts["captions"]["cut"]["kept"] >= (cut["chosen_cut"] | cut["rejected_cut"]).sum() > 0
    report = audit.preferences_table({"pair-1": {0: counts}})
    row = report.values[report.values["side"] == "captions"].iloc[0]
    assert row["cut at the limit: candidates"] == candidates["cut"].sum()
    assert any("without an end" in note for note in report.notes)


def test_the_next_iteration_keeps_the_ids_of_the_one_before(world):
    config, layout = world
    sample_all(config, layout, shards=1)
    table = read_table(layout.checkpoint(0, "base") / "candidates" / "captions.parquet", ["tokens", "cut"])
    from hermesflow.selfplay.preferences import Candidate, Pair, caption_pairs, captions_table

    tokens = [None if row is None else tuple(row.tolist()) for row in table["tokens"]]
    sides = [Candidate(f"c{k}", 0.1 * k, tokens[k], bool(table["cut"][k])) for k in range(6)]
    pairs = {
        "a": Pair(sides[5], sides[0]),
        "b": Pair(sides[4], sides[1]),
        "c": Pair(Candidate("x", 1.0), Candidate("y", 0.0)),
    }
    captions_table(pairs).to_parquet(layout.root / "captions.parquet")
    assert caption_pairs(pd.read_parquet(layout.root / "captions.parquet")) == pairs
    plain = captions_table({"c": pairs["c"]})
    assert list(plain.columns) == [
        "id",
        "chosen_caption",
        "rejected_caption",
        "chosen_caption_score",
        "rejected_caption_score",
    ]
    assert caption_pairs(plain) == {"c": pairs["c"]}


def test_words_of_the_micro_world_come_back(tmp_path):
    tokenizer = word_tokenizer(vocabulary(LEXICON))
    before = (tokenizer.save(tmp_path / "a.json"), (tmp_path / "a.json").read_bytes())[1]
    assert b"encode_special_tokens" not in before
    model = model_of(tokenizer)
    for start in range(2, tokenizer.size - 5, 7):
        ids = [*range(start, start + 5), model.end_token]
        assert model.completion_tokens([model.detokenize(ids)]) == [ids]


@given(st.lists(st.floats(-6e4, 6e4, width=32), min_size=4, max_size=4), st.sampled_from(["float16", "float32"]))
def test_latents_are_what_their_file_gives_back(tmp_path_factory, values, dtype):
    """Half precision rounds; what is graded, scored and trained on is what was rounded."""
    form, path = ImageForm("latents", (2, 2), dtype), tmp_path_factory.mktemp("latents") / "images.npy"
    images = torch.tensor(values).view(1, 1, 2, 2)
    write_images(path, ["a"], images.numpy(), form)
    stored = as_tensor(read_images(path, form)[1])
    assert torch.equal(stored, as_stored(images, form)) and stored.dtype == getattr(torch, dtype)
    write_images(path, ["a"], stored.numpy(), form)
    assert torch.equal(as_tensor(read_images(path, form)[1]), stored)
    codes = torch.tensor([[[0, 65535]]])
    assert torch.equal(as_stored(codes, ImageForm("codes", (2,), "uint16")), codes)
