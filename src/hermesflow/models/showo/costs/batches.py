"""One batch of each kind of work as the stages run it with Show-o."""

from __future__ import annotations

import math
from typing import Any

from hermesflow.config.sections import Training
from hermesflow.models import capacity
from hermesflow.models.costs import batches
from hermesflow.models.costs.decoder import Scored, image_scoring, text_scoring
from hermesflow.models.machines import Pass
from hermesflow.models.showo.costs import memory
from hermesflow.models.showo.costs.decoder import Decoder, image_decoding
from hermesflow.models.showo.costs.masked import expected_masked
from hermesflow.models.showo.magvit import MagVitV2


class Batches(batches.Batches):
    """Batches of a config."""

    decoder: Decoder
    network = MagVitV2

    def generated(self, rows: int, prompts: int) -> tuple[list[Pass], float]:
        """Passes and peak of drawing images, in as many sessions as they have no room together."""
        settings, decoder, length = self.config.sampling.images, self.decoder, self.lengths.drawing
        room = capacity.image_rows(num_image_tokens=decoder.image_tokens, codebook_size=decoder.codes)
        sessions = math.ceil(rows / room)
        rows, prompts = math.ceil(rows / sessions), math.ceil(prompts / sessions)
        work: dict[str, Any] = {"rows": rows, "prompts": prompts, "prompt_length": length, "steps": settings.steps}
        work |= {"guided": settings.guidance > 0, "size": self.size}
        passes = [one.repeated(sessions) for one in image_decoding(decoder, **work)]
        return passes, memory.image_decoding_peak(decoder, **work)

    def pair_scoring(self, training: Training, pairs: int) -> tuple[Scored, Scored]:
        """A micro batch of Pair-DPO, its texts and its images."""
        masked = expected_masked(
            training.mask_schedule, tokens=self.decoder.image_tokens, mask_ratios=training.mask_ratios
        )
        return (
            text_scoring(self.decoder, **self.texts_of(pairs)),
            image_scoring(self.decoder, **self.images_of(pairs), scored=masked),
        )
