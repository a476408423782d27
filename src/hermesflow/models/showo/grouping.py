"""Images and texts that are scored, or begin a decoding: packed, and run in groups that fit into memory.

How many groups there are follows from counts, not from lengths: processes that share weights must call alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hermesflow.models.showo import packing, prompting
from hermesflow.models.showo.packing import Forward
from hermesflow.models.showo.prompting import TokenIds

Texts = Sequence[Sequence[int]]
"""Token ids."""


class Drawn(NamedTuple):
    """Some captions and the images behind them."""

    rows: Tensor
    """(R,) int64, of the images."""
    blocks: Tensor
    """Last hidden states of the image blocks, boundaries included, (R, T + 2, D)."""


class Said(NamedTuple):
    """Some images and the texts about them: R texts with S scored places, text by text."""

    rows: Tensor
    """(R,) int64, of the texts."""
    hidden: Tensor
    """Last hidden states at scored places, (S, D)."""
    targets: Tensor
    """(S,) int64."""
    scored: Tensor
    """(R, K) bool, which of the K places of each text they are."""


def drawn(
    forward: Forward,
    ids: TokenIds,
    captions: Texts,
    codes: Tensor,
    masked: Tensor,
    owners: Tensor | None,
    *,
    max_text_tokens: int,
    together: int,
) -> Iterator[Drawn]:
    """Run each caption once and the images behind it.

    Args:
        forward: the decoder.
        ids: the vocabulary.
        captions: U texts.
        codes: (B, T) int64.
        masked: (B, T) bool.
        owners: (B,) int64, the caption of each image, as many images for each; None is one caption per image.
        max_text_tokens: longest caption.
        together: tokens that run together.
    """
    if not captions:
        return
    owners = torch.arange(len(captions)) if owners is None else owners.cpu()
    rows_of = owners.argsort(stable=True).reshape(len(captions), -1)  # (U, C)
    bound = max_text_tokens + 1 + rows_of.shape[1] * (codes.shape[1] + 2)
    for group in _groups([len(text) for text in captions], bound=bound, together=together):
        rows = rows_of[group].to(codes.device)
        some = [captions[i] for i in group.tolist()]
        prompts = prompting.generation_prompts(ids, some, max_text_tokens=max_text_tokens)
        flat = rows.flatten()
        blocks = prompting.image_block(ids, codes[flat], masked[flat]).unflatten(0, rows.shape)
        yield Drawn(flat, packing.images_behind_prompts(forward, prompts, blocks).flatten(0, 1))


def said(
    forward: Forward,
    ids: TokenIds,
    codes: Tensor,
    owners: Tensor,
    prompts: Texts,
    completions: Texts,
    *,
    max_text_tokens: int,
    together: int,
) -> Iterator[Said]:
    """Run each image once, each different prompt about it once, and the completions behind that.

    Args:
        forward: the decoder.
        ids: the vocabulary.
        codes: (I, T) int64 images.
        owners: (B,) int64, the image of each text.
        prompts: B texts.
        completions: B texts, each with its end token unless it was cut; all their tokens are scored.
        max_text_tokens: longest prompt with its completion.
        together: tokens that run together.
    """
    images, device = len(codes), codes.device
    texts = prompting.understanding_texts(
        ids, prompts, completions, owners.tolist(), images=images, max_text_tokens=max_text_tokens
    )
    about: list[list[int]] = [[] for _ in range(images)]
    for row, owner in enumerate(owners.tolist()):
        about[owner].append(row)
    named = [i for i in range(images) if about[i]]
    lengths = [len(texts.trees[i].tokens) for i in named]
    for group in text_groups(
        lengths,
        rows=len(prompts) / max(images, 1),
        image_tokens=codes.shape[1],
        max_text_tokens=max_text_tokens,
        together=together,
    ):
        some = [named[i] for i in group.tolist()]
        trees = [texts.trees[i] for i in some]
        hidden = packing.texts_behind_images(forward, ids, codes[some], trees)
        rows = [row for i in some for row in about[i]]
        places = [
            start + place
            for i, start in zip(some, starts(trees), strict=True)
            for row in about[i]
            for place in texts.places[row]
        ]
        targets = torch.tensor([target for row in rows for target in texts.targets[row]], device=device)
        counts = torch.tensor([len(texts.targets[row]) for row in rows])
        scored = (torch.arange(int(counts.max())) < counts[:, None]).to(device)
        chosen = hidden.index_select(0, torch.tensor(places, device=device))
        yield Said(torch.tensor(rows, device=device), chosen, targets, scored)


def text_groups(
    lengths: Sequence[int], *, rows: float, image_tokens: int, max_text_tokens: int, together: int
) -> list[Tensor]:
    """Images whose texts are of like length, (g,) int64 each.

    Args:
        lengths: tokens of the texts about each image.
        rows: texts about an image, on the average.
        image_tokens: T.
        max_text_tokens: longest text.
        together: tokens that run together.
    """
    return _groups(lengths, bound=image_tokens + 3 + rows * max_text_tokens, together=together)


def starts(trees: Sequence[prompting.TextTree]) -> list[int]:
    """Where each begins when they stand end to end."""
    return packing.ends_before([len(tree.tokens) for tree in trees])


def _groups(lengths: Sequence[int], *, bound: float, together: int) -> list[Tensor]:
    """Sequences of like length; `bound` is how long they are at most, on the average."""
    order = torch.tensor(list(lengths), dtype=torch.int64).argsort(stable=True)
    return list(order.split(max(int(together / bound), 1)))
