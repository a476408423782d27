"""Images and texts that are scored, or begin a decoding: packed, and run in groups that fit into memory.

How many groups there are follows from counts, not from lengths: processes that share weights must call alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hermesflow.models import packing
from hermesflow.models.trees import Completed, TextTree

RunTexts = Callable[[list[int], list[TextTree]], Tensor]
"""run(images, trees) -> last hidden states of the texts about some images, one tree after the other, (N, D)."""


class ScoredTexts(NamedTuple):
    """Some images and the texts about them: R texts with S scored places, text by text."""

    rows: Tensor
    """(R,) int64, of the texts."""
    hidden: Tensor
    """Last hidden states at scored places, (S, D)."""
    targets: Tensor
    """(S,) int64."""
    scored: Tensor
    """(R, K) bool, which of the K places of each text they are."""


def scored_texts(
    run: RunTexts,
    texts: Completed,
    owners: Tensor,
    *,
    image_length: int,
    max_text_tokens: int,
    together: int,
    device: torch.device,
) -> Iterator[ScoredTexts]:
    """Run each image once, each different prompt about it once, and the completions behind that.

    Args:
        run: runs texts behind the images that they are about.
        texts: B texts about I images; all tokens of their completions are scored.
        owners: (B,) int64, the image of each text.
        image_length: columns before a text.
        max_text_tokens: longest prompt with its completion.
        together: tokens that run together.
        device: where the model is.
    """
    images = len(texts.trees)
    about: list[list[int]] = [[] for _ in range(images)]
    for row, owner in enumerate(owners.tolist()):
        about[owner].append(row)
    named = [i for i in range(images) if about[i]]
    lengths = [len(texts.trees[i].tokens) for i in named]
    bound = image_length + len(owners) / max(images, 1) * max_text_tokens
    for group in groups(lengths, bound=bound, together=together):
        group_images = [named[i] for i in group.tolist()]
        trees = [texts.trees[i] for i in group_images]
        hidden = run(group_images, trees)
        rows = [row for i in group_images for row in about[i]]
        places = [
            start + place
            for i, start in zip(group_images, starts(trees), strict=True)
            for row in about[i]
            for place in texts.places[row]
        ]
        targets = torch.tensor([target for row in rows for target in texts.targets[row]], device=device)
        counts = torch.tensor([len(texts.targets[row]) for row in rows])
        scored = (torch.arange(int(counts.max())) < counts[:, None]).to(device)
        chosen = hidden.index_select(0, torch.tensor(places, device=device))
        yield ScoredTexts(torch.tensor(rows, device=device), chosen, targets, scored)


def image_groups(
    lengths: Sequence[int], owners: Tensor | None, *, image_length: int, max_text_tokens: int, together: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Groups of captions, and the rows (g, C) of the images behind each.

    Args:
        lengths: tokens of U captions.
        owners: (B,) int64, the caption of each image, as many images for each; None is one caption per image.
        image_length: columns of an image.
        max_text_tokens: longest caption.
        together: tokens that run together.
    """
    if not lengths:
        return
    owners = torch.arange(len(lengths)) if owners is None else owners.cpu()
    rows_of = owners.argsort(stable=True).reshape(len(lengths), -1)  # (U, C)
    bound = max_text_tokens + 1 + rows_of.shape[1] * image_length
    for group in groups(lengths, bound=bound, together=together):
        yield group.tolist(), rows_of[group]


def starts(trees: Sequence[TextTree]) -> list[int]:
    """Where each begins when they stand end to end."""
    return packing.ends_before([len(tree.tokens) for tree in trees])


def groups(lengths: Sequence[int], *, bound: float, together: int) -> list[Tensor]:
    """Sequences of like length, (g,) int64 each; `bound` is how long they are at most, on the average."""
    order = torch.tensor(list(lengths), dtype=torch.int64).argsort(stable=True)
    return list(order.split(max(int(together / bound), 1)))


def in_order(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Values by row, of parts (rows, values)."""
    if not parts:
        return torch.zeros(0)
    rows, values = (torch.cat(column) for column in zip(*parts, strict=True))
    return values[rows.argsort()]
