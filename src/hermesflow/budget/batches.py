"""One batch of each kind of work as the stages run it: its passes and its peak.

Batches are counted as if all were full and every text as long as may be, so figures are upper bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hermesflow.budget import memory, pixels
from hermesflow.budget.decoder import Decoder, Flops, image_decoding, image_scoring, text_decoding, text_scoring
from hermesflow.budget.lengths import CHOICES, Lengths, expected_masked
from hermesflow.budget.machines import Pass
from hermesflow.budget.memory import FLOAT, Rows
from hermesflow.config import Config
from hermesflow.models import capacity
from hermesflow.sampling import KEEP_BELOW
from hermesflow.scoring import LIKELIHOOD_ROWS
from hermesflow.sections import Objective, Training, VqaMethod

FLOAT32 = "no"
TEXT_CALLS, IMAGE_CALLS = 3, 1
"""Decoder calls of `text_logps` (the images, two groups of texts) and of `image_logps`."""


@dataclass(frozen=True)
class Load:
    """What one seed's job or jobs of a rule, for one checkpoint, put on GPUs."""

    passes: list[Pass]
    memory: float
    """Bytes of a GPU at the peak."""
    precision: str


@dataclass(frozen=True)
class Batches:
    """Batches of a config."""

    config: Config
    decoder: Decoder
    lengths: Lengths

    def pixels(self) -> tuple[pixels.Pixels, pixels.Pixels]:
        """Encoder and decoder of the image tokenizer."""
        settings, size = self.config.image_tokenizer, self.config.data.image_size
        return pixels.encoder(settings, size), pixels.decoder(settings, size)

    def pixel_peak(self, images: int) -> int:
        """Peak of coding or decoding so many images at once."""
        there, back = self.pixels()
        return FLOAT * (there.parameters + back.parameters) + max(there.peak(images), back.peak(images))

    @property
    def precision(self) -> str:
        """Of all that samples, scores and evaluates."""
        return self.config.runtime.inference_precision

    @property
    def size(self) -> int:
        """Bytes of a number there."""
        return FLOAT if self.precision == FLOAT32 else FLOAT // 2

    @property
    def _sizes(self) -> dict[str, int]:
        own = self.config.language_model
        sizes = {"layers": own.layers, "hidden_size": own.hidden_size, "max_text_tokens": own.max_text_tokens}
        return {**sizes, "element_size": self.size, "num_image_tokens": self.config.num_image_tokens}

    def drawn(self, rows: int, prompts: int) -> tuple[list[Pass], float]:
        """Passes and peak of drawing images, in as many sessions as they have no room together."""
        own, decoder, length = self.config.sampling.images, self.decoder, self.lengths.drawing
        guided = own.guidance > 0
        sessions = math.ceil(rows / capacity.image_rows(**self._sizes))
        rows, prompts = math.ceil(rows / sessions), math.ceil(prompts / sessions)
        passes = image_decoding(
            decoder, rows=rows, prompts=prompts, prompt_length=length, steps=own.steps, guided=guided, size=self.size
        )
        on_cpu = self.config.runtime.device == "cpu"
        return [one.repeated(sessions) for one in passes], memory.image_decoding_peak(
            decoder, rows=rows, prompts=prompts, prompt_length=length, guided=guided, on_cpu=on_cpu, size=self.size
        )

    def written(self, images: int, prompts: int, length: int, rows: int, tokens: int) -> tuple[list[Pass], float]:
        """Passes and peak of writing texts, in as many sessions; arguments as `decoder.text_decoding`."""
        sessions = math.ceil(rows / capacity.text_rows(**self._sizes))
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

    def asked(self, method: VqaMethod, together: int, pairs: int) -> Load:
        """Self-VQA on all candidate images of some pairs, `together` of them at a time."""
        own, longest = self.lengths, self.config.scoring.max_answer_tokens
        images = together * self.config.sampling.images.n
        rows = images * own.questions
        if method == "generate":
            passes, peak = self.written(images, rows, own.asking, rows, longest)
            return Load([one.repeated(pairs / together) for one in passes], peak, self.precision)
        batches, most = pairs / together, capacity.text_rows(**self._sizes)
        if method == "likelihood":  # every choice is a row with an image of its own
            rows *= CHOICES
            most = min(LIKELIHOOD_ROWS, most)
            images = rows
        sessions = max(1.0, rows / most)
        batches *= sessions
        images, rows = math.ceil(images / sessions), math.ceil(rows / sessions)
        flops, tokens = text_scoring(self.decoder, images=images, rows=rows, length=own.text, scored=own.answer)
        calls = self.calls(images, rows, 0, scored=own.answer)
        peak = memory.scoring_peak(self.decoder, calls, precision=FLOAT32)  # an upper bound of half precision
        return Load([self.scored(flops, tokens, TEXT_CALLS).repeated(batches)], peak, self.precision)

    def pair_flops(self, training: Training, pairs: int) -> tuple[tuple[Flops, float], tuple[Flops, float]]:
        """FLOPs and tokens of a micro batch of Pair-DPO, of its texts and of its images."""
        own, decoder = self.lengths, self.decoder
        masked = expected_masked(training.mask_schedule, tokens=decoder.image_tokens, pairs=pairs)
        return (
            text_scoring(decoder, images=pairs, rows=2 * pairs, length=own.text, scored=own.caption),
            image_scoring(decoder, rows=2 * pairs, prompt_length=own.drawing, scored=masked),
        )

    def pair_calls(self, pairs: int, objective: Objective) -> list[Rows]:
        """Calls of a micro batch of Pair-DPO that keep something for the gradient, all image tokens being masked."""
        texts = 0 if objective == "generation" else pairs
        drawn = 0 if objective == "understanding" else 2 * pairs
        return self.calls(texts, 2 * texts, drawn, scored=self.lengths.caption)

    def calls(self, images: int, texts: int, drawn: int, *, scored: int) -> list[Rows]:
        """Calls to the decoder: images, the texts about them, images to be drawn."""
        prefix, own = self.decoder.image_prefix, self.lengths
        found = []
        if texts:
            found = [
                Rows(rows=images, length=prefix, prefixed=True),
                Rows(rows=texts, length=own.text, prefix=prefix, scored=scored),
            ]
        if drawn:
            length = own.drawing + self.decoder.image_block
            found.append(Rows(rows=drawn, length=length, scored=self.decoder.image_tokens, masks=drawn))
        return found

    def training_peak(
        self, calls: list[Rows], *, precision: str, processes: int, accumulated: bool, dpo: bool = False
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
            fused=self.config.runtime.device != "cpu",
        ).total

    def scored(self, flops: Flops, tokens: float, calls: int) -> Pass:
        """A batch without gradients."""
        return self._pass(flops.forward, tokens, calls, reads=1)

    def trained(self, flops: Flops, tokens: float, calls: int, *, dpo: bool = False) -> Pass:
        """A batch with gradients; recomputed activations and adapters are Pair-DPO's alone."""
        lora = self.config.training.lora if dpo else None
        recomputed = dpo and self.config.runtime.activation_checkpointing
        done = flops.trained(recomputed=recomputed, frozen=bool(lora))
        if lora:
            done += 6 * self.decoder.adapter_parameters(lora) * tokens
        return self._pass(done, tokens, calls, reads=4 if recomputed else 3)

    def _pass(self, flops: float, tokens: float, calls: int, *, reads: int) -> Pass:
        weights = self.decoder.layers * self.decoder.layer_weights
        head = self.decoder.hidden_size * self.decoder.vocabulary
        return Pass(calls, flops / calls, FLOAT * reads * (weights + head / calls), tokens / calls)
