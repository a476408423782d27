"""Arithmetic of Janus: what a batch of each kind of work costs; `budget` asks for these names.

Images that are read go through the tower, which has no gradient in Pair-DPO; logits of images are over the codes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Training, VqaMethod
from hermesflow.data.worlds.language import WORLDS
from hermesflow.models.costs import decoder, next_token, pixels
from hermesflow.models.costs.decoder import Scored
from hermesflow.models.costs.memory import scoring_peak, text_calls
from hermesflow.models.costs.next_token import expected_masked, image_calls, image_decoding, image_scoring
from hermesflow.models.janus.model import tower_of
from hermesflow.models.janus.prompting import TOKENS
from hermesflow.models.janus.vq import ImageVQ
from hermesflow.models.machines import FLOAT, Load, Pass

__all__ = [
    "Batches",
    "Decoder",
    "expected_masked",
    "image_calls",
    "image_decoding",
    "image_scoring",
    "saved_bytes",
    "scoring_peak",
    "text_calls",
    "text_scoring",
]
WORDS = 102_400
"""Rows of the word embedding of the released models, taken for every text tokenizer but the micro world's."""


class ScoredTexts(NamedTuple):
    """A call of `Janus.text_logps`; the rest as `decoder.Scored`."""

    flops: decoder.Flops
    tokens: float
    calls: int
    images: int
    """That run through the tower."""


@dataclass(frozen=True, kw_only=True)
class Decoder(next_token.Decoder):
    """Sizes of a Janus model."""

    before: int
    """Columns before an image, and none of its boundaries."""
    tower: tuple[int, int, int]
    """Width, layers and MLP width of the tower."""
    patch: int
    """Numbers of a patch of pixels."""
    code_width: int
    tokenizer_parameters: int

    @staticmethod
    def of(config: Config) -> Decoder:
        """The model of a config."""
        settings, tower, tokenizer = config.language_model, tower_of(config.language_model), config.image_tokenizer
        source = settings.text_tokenizer
        small = isinstance(source, str) and source in WORLDS
        before = settings.text_before_image or ""
        return Decoder(
            **decoder.common_sizes(config),
            vocabulary=settings.vocabulary or decoder.word_rows(source, released=WORDS, tokens=len(TOKENS)),
            before=1 + len(before.split() if small else before.encode()),
            tower=(tower.hidden_size, tower.layers, tower.intermediate_size),
            patch=3 * config.data.image_size**2 // config.num_image_tokens,
            code_width=tokenizer.code_width or 8,
            tokenizer_parameters=saved_bytes(tokenizer) // FLOAT,
        )

    @property
    def parameters(self) -> int:
        """All of them: decoder with two vocabulary matrices, tower, what images enter and leave by, image tokenizer."""
        width, codes = self.hidden_size, self.codes
        drawing = codes * self.code_width + (self.code_width + 2 * width + 3) * width + (width + 1) * codes
        return self.text_parameters + self.tower_parameters + drawing + self.tokenizer_parameters

    @property
    def tower_parameters(self) -> int:
        """Of the tower, its patches and its positions, and what makes its features as wide as the decoder."""
        width, layers, inner = self.tower
        each = 4 * width**2 + 2 * width * inner + 9 * width + inner
        aligner = (width + self.hidden_size + 2) * self.hidden_size
        return (self.patch + self.image_tokens + 3) * width + layers * each + aligner

    @property
    def tower_flops(self) -> float:
        """Forward FLOPs of one image through all of that."""
        width, layers, inner = self.tower
        each = 2 * (4 * width**2 + 2 * width * inner) + 4 * width * self.image_tokens
        aligner = 2 * (width + self.hidden_size) * self.hidden_size
        return self.image_tokens * (2 * self.patch * width + layers * each + aligner)

    @property
    def image_prefix(self) -> int:
        """Columns before a text."""
        return self.before + 1 + self.image_tokens

    @property
    def image_block(self) -> int:
        """Columns of an image that is scored: its beginning, and all codes but the last."""
        return self.image_tokens

    @property
    def code_state(self) -> float:
        """FLOPs of the input state of one code."""
        return 2 * (self.code_width + self.hidden_size) * self.hidden_size

    @property
    def code_outputs(self) -> tuple[int, ...]:
        """A hidden layer, then the codes alone, whether they are written or scored."""
        return self.hidden_size, self.codes

    scored_outputs = code_outputs


class Batches(next_token.Batches):
    """Batches of a config."""

    decoder: Decoder
    network = ImageVQ

    def written(self, images: int, prompts: int, length: int, rows: int, tokens: int) -> tuple[list[Pass], float]:
        """Passes and peak of writing texts; arguments as `decoder.text_decoding`."""
        passes, peak = super().written(images, prompts, length, rows, tokens)
        sizes = self.decoder
        return [Pass(1, images * sizes.tower_flops, self.size * sizes.tower_parameters), *passes], peak

    def self_vqa(self, method: VqaMethod, together: int, pairs: int) -> Load:
        """Self-VQA on all candidate images of some pairs, `together` of them at a time."""
        load, sizes = super().self_vqa(method, together, pairs), self.decoder
        if method == "generate":
            return load
        flops = together * self.config.sampling.images.n * sizes.tower_flops
        return replace(load, passes=[Pass(pairs / together, flops, self.size * sizes.tower_parameters), *load.passes])

    def pair_scoring(self, training: Training, pairs: int) -> tuple[ScoredTexts, Scored]:
        """A micro batch of Pair-DPO; the tower runs for its texts."""
        _, image_work = super().pair_scoring(training, pairs)
        return text_scoring(self.decoder, **self.texts_of(pairs)), image_work

    def scored(self, work: Any, *, size: int = FLOAT) -> Pass:
        """A batch without gradients."""
        return self._with_tower(super().scored(work, size=size), work, 1)

    def trained(self, work: Any, *, dpo: bool = False) -> Pass:
        """A batch with gradients; in Pair-DPO the tower has none."""
        return self._with_tower(super().trained(work, dpo=dpo), work, 1 if dpo else 3)

    def _with_tower(self, one: Pass, work: Any, times: int) -> Pass:
        images = work.images if isinstance(work, ScoredTexts) else 0
        return replace(one, flops=one.flops + times * images * self.decoder.tower_flops / work.calls)


def text_scoring(sizes: Decoder, *, images: int, size: int = FLOAT, **texts: int) -> ScoredTexts:
    """`Janus.text_logps`; arguments as `decoder.text_scoring`."""
    return ScoredTexts(*decoder.text_scoring(sizes, images=images, size=size, **texts), images=images)


saved_bytes = partial(pixels.saved_bytes, ImageVQ)
