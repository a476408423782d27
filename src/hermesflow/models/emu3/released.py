"""The text tokenizer of Emu3's official repositories, which have no tokenizer.json.

Byte pairs are in the format of tiktoken, image tokens in a list; how texts are split, and the tokens between both, are
in the official code alone.
Source: baaivision/Emu3 (tokenization_emu3.py).
"""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

from tokenizers import normalizers
from transformers.convert_slow_tokenizer import TikTokenConverter

from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.models.text_tokenizers import TextTokenizer, pretrained_tokenizer

RANKS, IMAGES = "emu3.tiktoken", "emu3_vision_tokens.txt"
END = "<|extra_204|>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Converter(TikTokenConverter):
    """transformers' converter without the package tiktoken, which it reads the file with."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        """Rank of every token in a file of lines `base64 rank`."""
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(Path(tiktoken_url).read_bytes().splitlines(), start=1):
            try:
                token, rank = line.split()
                ranks[b64decode(token, validate=True)] = int(rank)
            except ValueError as error:
                raise ArtifactError(
                    f"{tiktoken_url}: line {number} is not a token and its rank ({error}). Fetch the file again."
                ) from error
        return ranks


def released_tokenizer(folder: str | Path) -> TextTokenizer:
    """The text tokenizer in a folder of official files, or of those of transformers.

    Raises:
        ConfigError: files are missing.
        ArtifactError: one of them is unreadable.
        DataError: no end-of-sequence token is named.
    """
    ranks, images = Path(folder) / RANKS, Path(folder) / IMAGES
    if not ranks.is_file():
        return pretrained_tokenizer(folder)
    if not images.is_file():
        raise ConfigError(f"language_model.text_tokenizer: {folder} has {RANKS} and no {IMAGES}; name both files.")
    converter = Converter(str(ranks), pattern=SPLIT, extra_special_tokens=[*SPECIAL, *images.read_text().splitlines()])
    backend = converter.converted()
    backend.normalizer = normalizers.NFC()
    return TextTokenizer(backend, END)
