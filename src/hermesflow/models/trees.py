"""Texts about images as trees: each different prompt once, behind it what may follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


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


def prompted(prompts: Sequence[Sequence[int]], owners: Sequence[int], *, images: int, start: int) -> Prompted:
    """`start prompt`, each different one of an image once.

    Args:
        prompts: B prompts as token ids.
        owners: the image of each.
        images: I, number of images.
        start: token that begins a text.
    """
    trees = [TextTree.empty() for _ in range(images)]
    known: dict[tuple[int, tuple[int, ...]], int] = {}
    places = []
    for owner, prompt in zip(owners, prompts, strict=True):
        tree, key = trees[owner], (owner, tuple(prompt))
        if key not in known:
            known[key] = len(tree.ends)
            tree.ends.append(tree.grow([start, *prompt], start=0, prompt=known[key], branch=TRUNK)[-1])
        places.append((owner, known[key]))
    return Prompted(trees, places)


def completed(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    owners: Sequence[int],
    *,
    images: int,
    start: int,
) -> Completed:
    """`start prompt completion`, the completions of a prompt behind one copy of it.

    The last token is scored, but not run: nothing follows it.

    Args:
        prompts: B prompts as token ids.
        completions: B completions likewise, each with its end token unless it was cut.
        owners: the image of each text.
        images: I, number of images.
        start: token that begins a text.
    """
    trees, starts = prompted(prompts, owners, images=images, start=start)
    places, targets = [], []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        owner, index = starts[row]
        tree = trees[owner]
        branch_places = tree.grow(completion[:-1], start=1 + len(prompt), prompt=index, branch=row)
        places.append([tree.ends[index], *branch_places])
        targets.append(list(completion))
    return Completed(trees, places, targets)


def tree_mask(trees: Sequence[TextTree]) -> Tensor:
    """What the tokens of some trees, padded at the right, see of each other: (I, 1, n, n) bool, True = may attend."""
    prompts = pad_right([tree.prompts for tree in trees], _NOBODY)
    branches = pad_right([tree.branches for tree in trees], TRUNK)
    same_branch, trunk = branches[:, :, None] == branches[:, None, :], branches[:, None, :] == TRUNK
    mask = (same_branch | trunk) & (prompts[:, :, None] == prompts[:, None, :])
    return mask.tril()[:, None]


def pad_right(rows: Sequence[list[int]], pad: int) -> Tensor:
    """Rows of one length, (N, L) int64."""
    length = max(map(len, rows), default=0)
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.int64).reshape(
        len(rows), length
    )
