"""Text tokenizers of a backbone: words of a small world, byte pairs of the data's own, or a released model's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hermesflow.config.sections import Source
from hermesflow.core import hub
from hermesflow.core.errors import ArtifactError, ConfigError, DataError
from hermesflow.core.files import read_json, write_json
from hermesflow.data.worlds.language import WORLDS, lexicon_of
from hermesflow.data.worlds.questions import vocabulary

END_OF_TEXT = "<|endoftext|>"
UNKNOWN_WORD = "<|unknown|>"
TRAINED = "trained"
TRAINED_SIZE = 8192
"""Tokens of a tokenizer that is made here, at most."""


class Tokenizer(Protocol):
    """What prompting needs of a text tokenizer."""

    size: int
    boundary: int
    boundary_token: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids per text, without boundary tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""

    def id_of(self, token: str) -> int | None:
        """Id of a token; None where there is no such token."""

    def save(self, path: Path) -> None:
        """Write what `load_text_tokenizer` reads."""


class TextTokenizer:
    """A fast tokenizer (`tokenizers` library) and the id that starts and ends a text."""

    def __init__(self, backend: object, boundary_token: str) -> None:
        from tokenizers import Tokenizer as Backend

        assert isinstance(backend, Backend)
        boundary = backend.token_to_id(boundary_token)
        if boundary is None:
            raise DataError(
                f"The text tokenizer has no token {boundary_token!r}. Expected a tokenizer with a known end token."
            )
        backend.encode_special_tokens = True  # a text that spells out the end token does not end there
        self._backend = backend
        self.boundary_token = boundary_token
        self.boundary: int = boundary
        self.size: int = backend.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids per text, without boundary tokens."""
        return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return self._backend.decode(list(ids), skip_special_tokens=True).strip()

    def id_of(self, token: str) -> int | None:
        """Id of a token; None where there is no such token."""
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def reading(self, templates: Sequence[str]) -> TextTokenizer:
        """The tokenizer that reads the special tokens these templates spell out, such as roles of a chat, as one token.

        All others, and the boundary token, are read letter by letter wherever a text spells them out.
        """
        plain = json.loads(self._backend.to_str())
        for token in plain["added_tokens"]:
            named = token["content"] != self.boundary_token and any(token["content"] in text for text in templates)
            token["special"] = token["special"] and not named
        return TextTokenizer(type(self._backend).from_str(json.dumps(plain)), self.boundary_token)

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON."""
        self._backend.save(str(path))


def word_tokenizer(vocabulary: Sequence[str]) -> TextTokenizer:
    """A word-level tokenizer over words separated by spaces.

    Args:
        vocabulary: every word, each once; their order sets the ids.
    """
    from tokenizers import AddedToken, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    words = [END_OF_TEXT, UNKNOWN_WORD, *vocabulary]
    backend = Backend(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN_WORD))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(w, special=True) for w in (END_OF_TEXT, UNKNOWN_WORD)])
    return TextTokenizer(backend, END_OF_TEXT)


def train_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Make a byte-level byte-pair tokenizer from texts and write what `pretrained_tokenizer` reads.

    Every text has tokens, for all bytes are among them. The same texts give the same files.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE

    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED_SIZE,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": END_OF_TEXT})


def pretrained_tokenizer(folder: str | Path) -> TextTokenizer:
    """The fast tokenizer in `tokenizer.json` of a folder; its end-of-sequence token is the boundary.

    Raises:
        ConfigError: tokenizer.json or tokenizer_config.json is missing.
        ArtifactError: one of them is unreadable.
        DataError: no end-of-sequence token is named.
    """
    folder = Path(folder)
    if missing := [name for name in ("tokenizer.json", "tokenizer_config.json") if not (folder / name).is_file()]:
        raise ConfigError(
            f"language_model.text_tokenizer: {folder} has no {' and no '.join(missing)}. Name a folder with both files "
            "of a fast tokenizer, or set it to `trained`."
        )
    token = read_json(folder / "tokenizer_config.json").get("eos_token")
    token = token["content"] if isinstance(token, dict) else token
    if token is None:
        raise DataError(f"{folder / 'tokenizer_config.json'}: names no eos_token; use a tokenizer whose end is known.")
    return load_text_tokenizer(folder / "tokenizer.json", token)


def load_text_tokenizer(path: Path, boundary_token: str) -> TextTokenizer:
    """Read what `TextTokenizer.save` wrote.

    Raises:
        ArtifactError: missing or not a tokenizer.
    """
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise ArtifactError(f"{path}: not a readable tokenizer ({error}). Take it from the same checkpoint.") from error
    return TextTokenizer(backend, boundary_token)


def text_tokenizer(
    source: str | Source,
    templates: Sequence[str] = (),
    *,
    reader: Callable[[str | Path], TextTokenizer] = pretrained_tokenizer,
) -> TextTokenizer:
    """The text tokenizer a config names.

    Args:
        source: what the config says.
        templates: of prompts; special tokens in them are read as such, see `TextTokenizer.reading`.
        reader: of a folder, where a family's files are others.

    Raises:
        FetchError: a source cannot be had.
        ConfigError: its folder holds no tokenizer.
        ArtifactError: the tokenizer cannot be read.
    """
    if isinstance(source, str) and source in WORLDS:  # the tokenizer that comes with a world
        return word_tokenizer(vocabulary(lexicon_of(source)))
    return reader(hub.fetch(source) if isinstance(source, Source) else source).reading(templates)


def token_ids(tokenizer: Tokenizer, tokens: Mapping[str, str]) -> tuple[dict[str, int], int]:
    """Ids of a family's tokens by name, and how many ids there are with them.

    Args:
        tokenizer: of texts; tokens that it does not have come after all of its own, in their order.
        tokens: name to text.
    """
    size, ids = tokenizer.size, {}
    for name, token in tokens.items():
        known = tokenizer.id_of(token)
        ids[name] = size if known is None else known
        size += known is None
    return ids, size
