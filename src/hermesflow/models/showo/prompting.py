"""From text and image codes to rows of token ids, in the layouts of Show-o.

    t2i: <|t2i|> sot text eot <|soi|> codes <|eoi|>
    mmu: <|mmu|> <|soi|> codes <|eoi|> sot prompt completion eot

The vocabulary is the text tokenizer's, then [PAD], nine special tokens, the image codes, and the mask token last.
The official code pads rows to the configured maximum; rotary positions are relative and nobody attends to padding, so
here nothing is padded.
Source: Show-o (arXiv 2408.12528) section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hermesflow.core.errors import DataError

SPECIAL_TOKENS = ("soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg")


@dataclass(frozen=True)
class TokenIds:
    """Where each kind of token lies in the vocabulary."""

    text_vocab_size: int
    codebook_size: int
    boundary: int
    """Starts and ends a text; Show-o's text tokenizer has one id for both."""

    @property
    def pad(self) -> int:
        """Padding."""
        return self.text_vocab_size

    def special(self, name: str) -> int:
        """Id of one of `SPECIAL_TOKENS`."""
        return self.text_vocab_size + 1 + SPECIAL_TOKENS.index(name)

    @property
    def first_code(self) -> int:
        """Id of image code 0."""
        return self.text_vocab_size + 1 + len(SPECIAL_TOKENS)

    @property
    def mask(self) -> int:
        """Stands for an image code that is not known yet."""
        return self.first_code + self.codebook_size

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.mask + 1


def generation_prompts(ids: TokenIds, texts: Sequence[Sequence[int]], *, max_text_tokens: int) -> list[list[int]]:
    """Prompts of text-to-image rows: `<|t2i|> sot text eot`.

    Args:
        ids: the vocabulary.
        texts: texts as token ids without boundary tokens; an empty one is the unconditional prompt.
        max_text_tokens: longest text with its boundary tokens; what is longer is cut and ends in eot all the same.
    """
    rows = [[ids.special("t2i"), ids.boundary, *text, ids.boundary] for text in texts]
    return [row if len(row) <= max_text_tokens + 1 else [*row[:max_text_tokens], ids.boundary] for row in rows]


def image_block(ids: TokenIds, codes: Tensor, masked: Tensor) -> Tensor:
    """`<|soi|> codes <|eoi|>` with masked codes replaced by the mask token.

    Args:
        ids: the vocabulary.
        codes: (B, T) int64 in [0, codebook_size); whatever stands at masked places is not read.
        masked: (B, T) bool.

    Returns:
        (B, T + 2) int64 token ids.
    """
    tokens = torch.where(masked, ids.mask, codes + ids.first_code)
    soi, eoi = (
        tokens.new_full((len(codes), 1), ids.special("soi")),
        tokens.new_full((len(codes), 1), ids.special("eoi")),
    )
    return torch.cat([soi, tokens, eoi], dim=1)


def understanding_images(ids: TokenIds, codes: Tensor) -> Tensor:
    """`<|mmu|> <|soi|> codes <|eoi|>`, (B, T + 3) int64, of codes (B, T)."""
    task = codes.new_full((len(codes), 1), ids.special("mmu"))
    return torch.cat([task, image_block(ids, codes, torch.zeros_like(codes, dtype=torch.bool))], dim=1)


@dataclass
class TextTree:
    """All texts about one image in one sequence: each different prompt once, behind it what may follow it.

    A token sees the tokens of its prompt and of its own completion that stand before it, and none of the others.
    """

    tokens: list[int]
    positions: list[int]
    """Column that the token would have in a row of its own, counted from the start of the text."""
    prompts: list[int]
    """Which of the image's prompts the token belongs to."""
    branches: list[int]
    """Which completion it belongs to; `TRUNK` for a prompt."""
    ends: list[int]
    """Place of the last token of each prompt, in the order in which they came."""

    @staticmethod
    def empty() -> TextTree:
        """Of an image that nothing is said about yet."""
        return TextTree([], [], [], [], [])

    def grow(self, tokens: Sequence[int], *, start: int, prompt: int, branch: int) -> range:
        """Append tokens whose first has column `start`; returns their places."""
        first = len(self.tokens)
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.prompts += [prompt] * len(tokens)
        self.branches += [branch] * len(tokens)
        return range(first, len(self.tokens))


TRUNK = -1
_NOBODY = -2


class Prompted(NamedTuple):
    """Texts of I images that only have a beginning so far."""

    trees: list[TextTree]
    places: list[tuple[int, int]]
    """Image of each text, and which of the image's prompts it starts with."""


class Completed(NamedTuple):
    """Texts of I images, and where their completions are scored."""

    trees: list[TextTree]
    places: list[list[int]]
    """Of each text, the places in its image's tree whose outputs predict its tokens."""
    targets: list[list[int]]
    """Those tokens, the end token last unless the completion was cut."""


def understanding_prompts(
    ids: TokenIds, prompts: Sequence[Sequence[int]], owners: Sequence[int], *, images: int
) -> Prompted:
    """`sot prompt`, each different one of an image once.

    Args:
        ids: the vocabulary.
        prompts: B prompts as token ids without boundary tokens.
        owners: the image of each.
        images: I, number of images.
    """
    trees = [TextTree.empty() for _ in range(images)]
    known: dict[tuple[int, tuple[int, ...]], int] = {}
    places = []
    for owner, prompt in zip(owners, prompts, strict=True):
        tree, key = trees[owner], (owner, tuple(prompt))
        if key not in known:
            known[key] = len(tree.ends)
            tree.ends.append(tree.grow([ids.boundary, *prompt], start=0, prompt=known[key], branch=TRUNK)[-1])
        places.append((owner, known[key]))
    return Prompted(trees, places)


def understanding_texts(
    ids: TokenIds,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    owners: Sequence[int],
    *,
    images: int,
    max_text_tokens: int,
) -> Completed:
    """`sot prompt completion`, the completions of a prompt behind one copy of it.

    The last token is scored, but not run: nothing follows it.

    Args:
        ids: the vocabulary.
        prompts: B prompts as token ids without boundary tokens.
        completions: B completions likewise, each with its end token unless it was cut.
        owners: the image of each text.
        images: I, number of images.
        max_text_tokens: longest text; what is longer is cut, and its end is not scored.

    Raises:
        DataError: a prompt leaves no room for its completion.
    """
    trees, starts = understanding_prompts(ids, prompts, owners, images=images)
    places, targets = [], []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        room = max_text_tokens - len(prompt) - 2
        if room < 0:
            raise DataError(
                f"A prompt of {len(prompt)} tokens leaves no room for a completion within {max_text_tokens} tokens; "
                "shorten the question or raise language_model.max_text_tokens."
            )
        owner, index = starts[row]
        said, tree = list(completion[: room + 1]), trees[owner]
        own = tree.grow(said[:-1], start=1 + len(prompt), prompt=index, branch=row)
        places.append([tree.ends[index], *own])
        targets.append(said)
    return Completed(trees, places, targets)


def tree_mask(trees: Sequence[TextTree]) -> Tensor:
    """What the tokens of some trees, padded at the right, see of each other: (I, 1, n, n) bool, True = may attend."""
    prompts = pad_right([tree.prompts for tree in trees], _NOBODY)
    branches = pad_right([tree.branches for tree in trees], TRUNK)
    own, trunk = branches[:, :, None] == branches[:, None, :], branches[:, None, :] == TRUNK
    mask = (own | trunk) & (prompts[:, :, None] == prompts[:, None, :])
    return mask.tril()[:, None]


def pad_right(rows: Sequence[list[int]], pad: int) -> Tensor:
    """Rows of one length, (N, L) int64."""
    length = max(map(len, rows), default=0)
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.int64).reshape(
        len(rows), length
    )
