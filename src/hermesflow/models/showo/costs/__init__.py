"""Arithmetic of Show-o: what a batch of each kind of work costs; `budget` asks for these names."""

from functools import partial

from hermesflow.models.costs import pixels
from hermesflow.models.costs.decoder import image_scoring, text_scoring
from hermesflow.models.costs.memory import image_calls, scoring_peak, text_calls
from hermesflow.models.showo.costs.batches import Batches
from hermesflow.models.showo.costs.decoder import Decoder
from hermesflow.models.showo.costs.masked import expected_masked
from hermesflow.models.showo.magvit import MagVitV2

saved_bytes = partial(pixels.saved_bytes, MagVitV2)

__all__ = [
    "Batches",
    "Decoder",
    "expected_masked",
    "image_calls",
    "image_scoring",
    "saved_bytes",
    "scoring_peak",
    "text_calls",
    "text_scoring",
]
