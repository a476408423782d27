"""Ways of doing the same that a GPU may like better; each is kept only if it wins by a tenth on one (`gpu_check`).

torch.compile   of the decoder's layers, in a step of Pair-DPO
CUDA graphs     of the step that appends one token to every text: a session of a fixed size, recorded once
FlexAttention   of a packed sequence under a block mask, against the parts that `models/packing.py` makes of it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from hermesflow.models import packing
from hermesflow.models.packing import Layers, Ragged
from hermesflow.models.showo.model import ShowO
from hermesflow.models.showo.sessions import ShowOTextSession

WINS = 1.1
"""Times as fast as today's way: what is less is not worth its code."""


class FlexTexts:
    """`packing.TextsBehindImages` as one call of FlexAttention over the whole sequence; the same arguments."""

    def __init__(
        self,
        images: int,
        image_length: int,
        texts: Ragged,
        mask: Tensor,
        *,
        causal: bool = False,
        cache: Layers | None = None,
    ) -> None:
        assert cache is None and not causal
        device, length = texts.device, images * image_length + int(texts.lengths.sum())
        # the image and the column of every place of the sequence; columns of texts are counted behind their image
        before = torch.arange(image_length).repeat(images)
        columns = torch.cat([before, *(image_length + torch.arange(int(n)) for n in texts.lengths)]).to(device)
        owners = torch.arange(images).repeat_interleave(image_length)
        owners = torch.cat([owners, torch.arange(images).repeat_interleave(texts.lengths)]).to(device)
        last = mask.shape[2] - 1

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            asking, seen = columns[query] - image_length, columns[key] - image_length
            text = mask[owners[query], 0, asking.clamp(0, last), seen.clamp(0, last)]
            return (owners[query] == owners[key]) & ((seen < 0) | ((asking >= 0) & text))

        self._mask = create_block_mask(sees, None, None, length, length, device=str(device))
        self._attention: Any = _compiled_flex if device.type == "cuda" else flex_attention

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `packing.Attend`."""
        return self._attention(query, key, value, block_mask=self._mask).transpose(1, 2)


def _compiled_flex(*arguments: Any, **options: Any) -> Any:
    global _FLEX
    _FLEX = _FLEX or torch.compile(flex_attention)
    return _FLEX(*arguments, **options)


_FLEX: Callable[..., Any] | None = None


def with_flex_attention(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same work with texts behind images by FlexAttention."""

    def run() -> Any:
        with patch.object(packing, "TextsBehindImages", FlexTexts):
            return work()

    return run


class FixedRows:
    """`packing.RowsBehindImages` of a fixed number of columns, which are masked until they are written.

    Args:
        images: keys and values of I images.
        rows: of N rows, N / I of each image in order, (N, H, room, d); written to.
        padding: (N, columns) bool, which of the first columns of `rows` are padding.
        length: columns of `rows` that are filled.
    """

    def __init__(self, images: Layers, rows: Layers, padding: Tensor, *, length: int) -> None:
        self._images, self._rows = images, rows
        size, _, room, _ = rows[0][0].shape
        self._shape = (len(images[0][0]), size // len(images[0][0]))
        self._column = torch.full((1,), length, device=padding.device)
        self._hidden = torch.arange(room, device=padding.device).expand(size, -1) >= length
        self._hidden[:, : padding.shape[1]] = padding

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `packing.Attend`."""
        image_keys, image_values = self._images[layer]
        keys, values = self._rows[layer]
        if layer == 0:
            self._hidden.index_fill_(1, self._column, False)
        keys.index_copy_(2, self._column, key)
        values.index_copy_(2, self._column, value)
        if layer + 1 == len(self._rows):
            self._column += 1
        asking = query[:, :, 0].unflatten(0, self._shape).transpose(1, 2)  # (I, H, R, d)
        image = torch.matmul(asking, image_keys.transpose(2, 3)).transpose(1, 2).flatten(0, 1)
        text = torch.matmul(query, keys.transpose(2, 3))[:, :, 0].masked_fill(self._hidden[:, None], -torch.inf)
        scores = torch.cat([image, text], dim=2) * query.shape[3] ** -0.5
        weights = scores.softmax(dim=2, dtype=torch.float32).to(query.dtype)
        split = image_keys.shape[2]
        of_image = torch.matmul(weights[:, :, :split].unflatten(0, self._shape).transpose(1, 2), image_values)
        of_text = torch.matmul(weights[:, :, None, split:], values)[:, :, 0]
        return (of_text + of_image.transpose(1, 2).flatten(0, 1))[:, None]


class FixedSession:
    """A started session with room for so many more tokens; on a GPU its step is recorded once and played again.

    Args:
        model: of the session.
        session: that has just been started, with as many texts about each image, in the images' order; left as it is.
        tokens: that can be appended.
    """

    @torch.inference_mode()
    def __init__(self, model: ShowO, session: ShowOTextSession, *, tokens: int) -> None:
        old = session._attend
        rows = [tuple(_longer(x[:, :, : old.length], tokens) for x in pair) for pair in old._row_cache]
        self._attend = FixedRows(old._images, rows, old._padding, length=old.length)  # type: ignore[arg-type]
        self._model, self._positions = model, session._positions.clone()
        self._tokens = torch.zeros(len(self._positions), 1, dtype=torch.int64, device=model.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        if model.device.type == "cuda":
            self._record()

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row, (N,) int64; returns the next logits (N, V), overwritten by the next step."""
        self._tokens.copy_(tokens[:, None])
        if self._graph is None:
            self._logits = self._run()
        else:
            self._graph.replay()
        return self._logits

    def _run(self) -> Tensor:
        self._positions += 1
        hidden = self._model.hidden(self._tokens, positions=self._positions, attend=self._attend)
        return self._model.head(hidden[:, -1])

    def _record(self) -> None:
        before = [x.clone() for x in (self._positions, self._attend._column, self._attend._hidden)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # once by itself: libraries take their memory
            self._run()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._run()
        for x, value in zip((self._positions, self._attend._column, self._attend._hidden), before, strict=True):
            x.copy_(value)


def _longer(x: Tensor, columns: int) -> Tensor:
    return torch.cat([x, x.new_zeros(*x.shape[:2], columns, x.shape[3])], dim=2)
