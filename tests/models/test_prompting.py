import pytest
import torch
from transformers import PreTrainedTokenizerFast

from hermesflow.core.errors import ArtifactError, DataError
from hermesflow.models.showo import prompting
from hermesflow.models.showo.prompting import TokenIds
from hermesflow.models.text_tokenizers import load_text_tokenizer, pretrained_tokenizer, word_tokenizer
from tests.support.phi_tokenizer import END, phi_tokenizer, write_tokenizer
from tests.support.showo_golden import reference

IDS = TokenIds(text_vocab_size=512, codebook_size=256, boundary=0)


def test_vocabulary_is_laid_out_as_officially():
    _, facts = reference()
    for name, value in facts["special_token_ids"].items():
        if name in ("<|sot|>", "<|eot|>"):
            assert IDS.boundary == value
        elif name == "<|pad|>":
            assert IDS.pad == value
        else:
            assert IDS.special(name.strip("<|>")) == value
    assert (IDS.first_code, IDS.mask, IDS.vocab_size) == (522, facts["mask_token_id"], 779)


def test_vocabulary_of_the_released_model():
    assert TokenIds(text_vocab_size=50295, codebook_size=8192, boundary=50256).vocab_size == 58498


def test_generation_rows_are_the_official_ones():
    tensors, _ = reference()
    rows = tensors["t2i.input_ids"]
    texts = [[i for i in row[:33] if i != 512][2:-1] for row in rows.tolist()]
    prompts = prompting.generation_prompts(IDS, texts, max_text_tokens=32)
    assert [33 - len(prompt) for prompt in prompts] == [0, 6, 30]
    padded = torch.tensor([[IDS.pad] * (33 - len(prompt)) + prompt for prompt in prompts])  # as the official rows are
    block = prompting.image_block(IDS, torch.zeros(3, 64, dtype=torch.int64), torch.ones(3, 64, dtype=torch.bool))
    assert torch.equal(torch.cat([padded, block], dim=1), rows)


def test_generation_prompt_is_cut_to_the_maximum_and_still_ends():
    [prompt] = prompting.generation_prompts(IDS, [list(range(1, 60))], max_text_tokens=32)
    assert len(prompt) == 33
    assert prompt[:3] == [517, 0, 1]
    assert prompt[-2:] == [30, 0]


def test_generation_prompt_that_just_fits_is_whole():
    [prompt] = prompting.generation_prompts(IDS, [list(range(1, 31))], max_text_tokens=32)
    assert prompt == [517, 0, *range(1, 31), 0]


def test_image_block_hides_masked_codes_only():
    codes, masked = torch.tensor([[3, 4, 5]]), torch.tensor([[False, True, False]])
    assert prompting.image_block(IDS, codes, masked).tolist() == [[513, 525, 778, 527, 514]]


def test_understanding_rows_are_the_official_ones():
    tensors, _ = reference()
    row = tensors["mmu.input_ids"]
    [tree], _ = prompting.understanding_prompts(IDS, [row[0, 68:].tolist()], [0], images=1)
    images = prompting.understanding_images(IDS, row[:, 2:66] - 522)
    assert torch.equal(torch.cat([images, torch.tensor([tree.tokens])], dim=1), row)


def test_understanding_texts_score_completion_and_end():
    trees, places, targets = prompting.understanding_texts(
        IDS, [[1, 2], [3]], [[4], [5, 6, 7]], [0, 1], images=2, max_text_tokens=10
    )
    assert [tree.tokens for tree in trees] == [[0, 1, 2, 4], [0, 3, 5, 6, 7]]  # the end token is scored, not run
    assert targets == [[4, 0], [5, 6, 7, 0]]
    assert places == [[2, 3], [1, 2, 3, 4]]


def test_texts_about_one_image_share_their_prompt_and_do_not_see_each_other():
    [tree], places, targets = prompting.understanding_texts(
        IDS, [[1, 2], [3], [1, 2]], [[4], [5], [6, 7]], [0, 0, 0], images=1, max_text_tokens=10
    )
    assert tree.tokens == [0, 1, 2, 0, 3, 4, 5, 6, 7]
    assert tree.positions == [0, 1, 2, 0, 1, 3, 2, 3, 4]
    assert places == [[2, 5], [4, 6], [2, 7, 8]]
    assert targets == [[4, 0], [5, 0], [6, 7, 0]]
    seen = [[j for j in range(9) if row[j]] for row in prompting.tree_mask([tree])[0, 0].tolist()]
    assert seen == [
        [0], [0, 1], [0, 1, 2], [3], [3, 4], [0, 1, 2, 5], [3, 4, 6], [0, 1, 2, 7], [0, 1, 2, 7, 8]
    ]  # fmt: skip


def test_a_tree_that_is_padded_sees_what_it_saw():
    trees, _, _ = prompting.understanding_texts(IDS, [[1], [2]], [[3], [4, 5]], [0, 1], images=2, max_text_tokens=10)
    mask = prompting.tree_mask(trees)
    assert mask.shape == (2, 1, 4, 4)
    assert torch.equal(mask[0, 0, :3, :3], torch.ones(3, 3).tril().bool())
    assert mask[0, 0, 3].tolist() == [
        False,
        False,
        False,
        True,
    ]  # padding sees itself: a row of nothing is not a number


def test_long_completion_is_cut_and_ends():
    [tree], _, targets = prompting.understanding_texts(
        IDS, [[1]], [list(range(2, 20))], [0], images=1, max_text_tokens=6
    )
    assert tree.tokens == [0, 1, 2, 3, 4]
    assert targets == [[2, 3, 4, 0]]


def test_prompt_without_room_for_a_completion_is_refused():
    with pytest.raises(DataError, match="shorten the question"):
        prompting.understanding_texts(IDS, [[1, 2, 3, 4, 5]], [[6]], [0], images=1, max_text_tokens=6)


def test_word_tokenizer_round_trip(tmp_path):
    tokenizer = word_tokenizer(["a", "red", "circle", ","])
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_text_tokenizer(tmp_path / "tokenizer.json", tokenizer.boundary_token)
    for one in (tokenizer, loaded):
        ids = one.encode(["a red circle , a circle", " red", ""])
        assert ids == [[2, 3, 4, 5, 2, 4], [3], []]
        assert one.decode([*ids[0], one.boundary]) == "a red circle , a circle"
        assert (one.size, one.boundary) == (6, 0)


def test_words_of_no_vocabulary_are_unknown_not_dropped():
    assert word_tokenizer(["a"]).encode(["a zebra a"]) == [[2, 1, 2]]


def test_broken_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        load_text_tokenizer(tmp_path / "tokenizer.json", "x")


def test_tokenizer_without_its_boundary_is_refused(tmp_path):
    word_tokenizer(["a"]).save(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="no token"):
        load_text_tokenizer(tmp_path / "tokenizer.json", "</s>")


# the tokenizer of the released model: the real one is not at hand, one of its layout is


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("phi"), phi_tokenizer())


def test_extended_phi_tokenizer_has_exactly_the_official_ids(phi):
    """As the released code does it: [PAD], then nine tokens, then image codes, the mask token last."""
    official = PreTrainedTokenizerFast(tokenizer_file=str(phi / "tokenizer.json"), eos_token=END, bos_token=END)
    assert len(official) == 50295
    official.add_special_tokens({"pad_token": "[PAD]"})
    official.add_tokens([f"<|{name}|>" for name in prompting.SPECIAL_TOKENS])
    tokenizer = pretrained_tokenizer(str(phi))
    ids = TokenIds(tokenizer.size, 8192, tokenizer.boundary)
    assert (ids.text_vocab_size, ids.pad, ids.boundary) == (50295, official.pad_token_id, official.eos_token_id)
    for name in prompting.SPECIAL_TOKENS:
        assert ids.special(name) == official.convert_tokens_to_ids(f"<|{name}|>")
    assert (ids.boundary, ids.pad, ids.special("soi"), ids.special("lvg")) == (50256, 50295, 50296, 50304)
    assert (ids.first_code, ids.mask, ids.vocab_size) == (len(official), 58497, 58498)


@pytest.mark.parametrize("codes", [256, 1024])  # 256 px and 512 px
def test_rows_of_the_released_model_at_both_sizes(phi, codes):
    tokenizer = pretrained_tokenizer(str(phi))
    ids = TokenIds(tokenizer.size, 8192, tokenizer.boundary)
    prompts = prompting.generation_prompts(ids, tokenizer.encode(["a red cat", ""]), max_text_tokens=128)
    assert prompts[1] == [50300, 50256, 50256]
    last = torch.full((2, codes), 8191)
    block = prompting.image_block(ids, last, torch.arange(codes).expand(2, codes) % 2 == 0)
    assert block.shape == (2, codes + 2)
    assert block[0, :3].tolist() == [50296, 58497, 58496] and block[0, -1] == 50297


def test_text_of_the_released_tokenizer_is_as_with_transformers(phi):
    texts = ["a red cat , and    a dog", "USER: \nIs it é? ASSISTANT:", ""]
    official = PreTrainedTokenizerFast(tokenizer_file=str(phi / "tokenizer.json"), eos_token=END)
    tokenizer = pretrained_tokenizer(str(phi))
    assert tokenizer.encode(texts) == [official(text)["input_ids"] for text in texts]
    assert [tokenizer.decode([*ids, tokenizer.boundary]) for ids in tokenizer.encode(texts)] == texts


def test_a_folder_without_a_usable_tokenizer_is_named(phi, tmp_path):
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json"):
        pretrained_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(DataError, match="eos_token"):
        pretrained_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        pretrained_tokenizer(str(tmp_path))
