"""A byte-level tokenizer laid out like phi-1.5's (which is not shipped here), and its files."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

END = "<|endoftext|>"
JANUS = (
    *("<｜▁pad▁｜>", "<｜begin▁of▁sentence｜>", "<begin_of_image>", "<end_of_image>", "<image_placeholder>"),
    *("<|User|>", "<|Assistant|>"),
)
"""Special tokens of Janus' tokenizers; ids are what `add_special_tokens` gives them."""


def phi_tokenizer(*, words=50257, spaces=38):
    """As phi-1.5: bytes and merges, the end token last of them, then runs of spaces; 50,295 entries in all."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    letters, merges = "abcdefghijklmnopqrstuvwxyz", []
    for pair in ((a, b) for a in letters for b in letters):
        if len(vocabulary) < words - 1:
            merges.append(pair)
            vocabulary["".join(pair)] = len(vocabulary)
    while len(vocabulary) < words - 1:
        vocabulary[f"<filler {len(vocabulary)}>"] = len(vocabulary)
    backend = Tokenizer(BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END, special=True)])
    backend.add_tokens([AddedToken(" " * n, normalized=True) for n in range(2, 2 + spaces)])
    return backend


def tokenizer_files(backend):
    """What a repository holds of it."""
    settings = {"eos_token": END, "tokenizer_class": "CodeGenTokenizer", "model_max_length": 2048}
    return {"tokenizer.json": backend.to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode()}


def write_tokenizer(folder, backend):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer_files(backend).items():
        (folder / name).write_bytes(content)
    return folder


def janus_tokenizer(*, pad=474, words=474):
    """As Janus-Pro's: the end token is followed by special tokens, of which the roles of a chat are two.

    Args:
        pad: id of the padding; in the released models what stands before it differs.
        words: tokens of bytes and merges, the end among them.
    """
    backend = phi_tokenizer(words=words, spaces=pad - words)
    backend.add_special_tokens([AddedToken(token, special=True) for token in JANUS])
    return backend
