"""A text tokenizer made from the data's own texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermesflow.core.errors import ConfigError
from hermesflow.models.text_tokenizers import END_OF_TEXT, TRAINED_SIZE, pretrained_tokenizer, train_tokenizer

TEXTS = ["a red disc beside a blue box", "What colour is the disc?", "red", "describe the image"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, path)
    return path


def test_the_same_texts_give_the_same_files_and_other_texts_others(folder, tmp_path):
    for name, texts in (("again", TEXTS), ("other", TEXTS[:1] * 2)):
        (tmp_path / name).mkdir()
        train_tokenizer(texts, tmp_path / name)
    own = (folder / "tokenizer.json").read_bytes()
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == own
    assert (tmp_path / "other" / "tokenizer.json").read_bytes() != own


def test_it_has_an_end_and_words_that_come_often_are_one_token(folder):
    tokenizer = pretrained_tokenizer(folder)
    assert tokenizer.boundary_token == END_OF_TEXT and 256 < tokenizer.size <= TRAINED_SIZE
    assert [len(ids) for ids in tokenizer.encode(["red", " disc", "a red disc"])] == [1, 1, 3]


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_has_tokens_and_comes_back(folder, text):
    if END_OF_TEXT in text:
        return
    tokenizer = pretrained_tokenizer(folder)
    (ids,) = tokenizer.encode([text])
    assert tokenizer.boundary not in ids and tokenizer.decode(ids) == text.strip()


def test_a_folder_without_a_tokenizer_is_refused_with_its_mend(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"text_tokenizer: .* has no tokenizer_config\.json.*or set it to `trained`"):
        pretrained_tokenizer(tmp_path)
