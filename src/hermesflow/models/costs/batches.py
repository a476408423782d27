"""One batch of each kind of work as the stages run it: its passes and its peak.

Batches are counted as if all were full and every text as long as may be, so figures are upper bounds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Objective, Training, VqaMethod
from hermesflow.models import capacity
from hermesflow.models.costs import memory
from hermesflow.models.costs.decoder import Decoder, Scored, text_decoding, text_scoring
from hermesflow.models.costs.memory import Call
from hermesflow.models.costs.pixels import Pixels, directions
from hermesflow.models.draws import KEEP_BELOW
from hermesflow.models.lengths import CHOICES, Lengths
from hermesflow.models.machines import FLOAT, FLOAT32, Load, Pass


@dataclass(frozen=True)
class Batches(ABC):
    """Batches of a config; a family says how images are drawn and scored."""

    config: Config
    decoder: Decoder
    lengths: Lengths
    network: ClassVar[Any]
    """The image tokenizer's class."""

    def pixels(self) -> tuple[Pixels, Pixels]:
        """Encoder and decoder of the image tokenizer."""
        return directions(self.network, self.config.image_tokenizer, self.config.data.image_size)

    @abstractmethod
    def generated(self, rows: int, prompts: int) -> tuple[list[Pass], float]:
        """Passes and peak of drawing images, in as many sessions as they have no room together."""

    @abstractmethod
    def pair_scoring(self, training: Training, pairs: int) -> tuple[Any, Scored]:
        """A micro batch of Pair-DPO, its texts and its images."""

    def pixel_peak(self, images: int) -> int:
        """Peak of coding or decoding so many images at once."""
        encoder, decoder = self.pixels()
        return FLOAT * (encoder.parameters + decoder.parameters) + max(encoder.peak(images), decoder.peak(images))

    @property
    def precision(self) -> str:
        """Of all that samples, scores and evaluates."""
        return self.config.runtime.inference_precision

    @property
    def size(self) -> int:
        """Bytes of a number there."""
        return FLOAT if self.precision == FLOAT32 else FLOAT // 2

    def written(self, images: int, prompts: int, length: int, rows: int, tokens: int) -> tuple[list[Pass], float]:
        """Passes and peak of writing texts, in as many sessions; arguments as `decoder.text_decoding`."""
        settings = self.config.language_model
        room = capacity.text_rows(
            layers=settings.layers,
            hidden_size=settings.hidden_size,
            element_size=self.size,
            num_image_tokens=self.config.num_image_tokens,
            max_text_tokens=settings.max_text_tokens,
        )
        sessions = math.ceil(rows / room)
        images, prompts, rows = (math.ceil(count / sessions) for count in (images, prompts, rows))
        passes = text_decoding(
            self.decoder, images=images, prompts=prompts, prompt_length=length, rows=rows, tokens=tokens, size=self.size
        )
        return [one.repeated(sessions) for one in passes], memory.text_decoding_peak(
            self.decoder,
            images=images,
            prompts=prompts,
            prompt_length=length,
            rows=rows,
            tokens=tokens,
            keep_below=KEEP_BELOW,
            size=self.size,
        )

    def self_vqa(self, method: VqaMethod, together: int, pairs: int) -> Load:
        """Self-VQA on all candidate images of some pairs, `together` of them at a time."""
        lengths, longest = self.lengths, self.config.scoring.max_answer_tokens
        images = together * self.config.sampling.images.n
        prompts = images * lengths.questions
        if method == "generate":
            passes, peak = self.written(images, prompts, lengths.asking, prompts, longest)
            return Load([one.repeated(pairs / together) for one in passes], peak, self.precision)
        texts: dict[str, int] = {
            "images": images,
            "prompts": prompts,
            "prompt_length": max(lengths.text - lengths.answer, 1),
            "rows": prompts * (CHOICES if method == "likelihood" else 1),
            "scored": lengths.answer,
            "size": self.size,
        }
        peak = memory.inference_scoring_peak(self.decoder, memory.text_calls(self.decoder, **texts), size=self.size)
        work = self.scored(text_scoring(self.decoder, **texts), size=self.size)
        return Load([work.repeated(pairs / together)], peak, self.precision)

    def pair_calls(self, pairs: int, objective: Objective) -> list[Call]:
        """Calls of a micro batch of Pair-DPO that keep something for the gradient, all image tokens being masked."""
        calls = []
        if objective != "generation":
            calls += memory.text_calls(self.decoder, **self.texts_of(pairs))
        if objective != "understanding":
            calls += memory.image_calls(self.decoder, **self.images_of(pairs), scored=self.decoder.image_tokens)
        return calls

    def texts_of(self, pairs: int) -> dict[str, int]:
        """Sizes of the captions of so many pairs."""
        lengths = self.lengths
        sizes = {"prompt_length": lengths.describing, "scored": lengths.caption}
        return {"images": pairs, "prompts": pairs, "rows": 2 * pairs, **sizes}

    def images_of(self, pairs: int) -> dict[str, int]:
        """Sizes of the images of so many pairs."""
        return {"prompts": pairs, "prompt_length": self.lengths.drawing, "rows": 2 * pairs}

    def training_peak(
        self, calls: list[Call], *, precision: str, processes: int, accumulated: bool, dpo: bool = False
    ) -> int:
        """Peak of a training process; recomputed activations and adapters are Pair-DPO's alone."""
        lora = self.config.training.lora if dpo else None
        return memory.training_peak(
            self.decoder,
            calls,
            precision=precision,
            recomputed=dpo and self.config.runtime.activation_checkpointing,
            adapters=self.decoder.adapter_parameters(lora) if lora else 0,
            processes=processes,
            accumulated=accumulated,
        ).total

    def scored(self, work: Scored, *, size: int = FLOAT) -> Pass:
        """A batch without gradients."""
        return self._pass(work.flops.forward, work, reads=size)

    def trained(self, work: Scored, *, dpo: bool = False) -> Pass:
        """A batch with gradients; recomputed activations and adapters are Pair-DPO's alone."""
        lora = self.config.training.lora if dpo else None
        recomputed = dpo and self.config.runtime.activation_checkpointing
        done = work.flops.trained(recomputed=recomputed, frozen=bool(lora))
        if lora:
            done += 6 * self.decoder.adapter_parameters(lora) * work.tokens
        return self._pass(done, work, reads=FLOAT * (4 if recomputed else 3))

    def _pass(self, flops: float, work: Scored, *, reads: int) -> Pass:
        weights = self.decoder.layers * self.decoder.layer_weights + self.decoder.hidden_size * self.decoder.vocabulary
        return Pass(work.calls, flops / work.calls, reads * weights, work.tokens / work.calls)
