"""What grades drawn images, and what it costs: other models' FLOPs, and an endpoint's price.

Released models are known here by name, because the plan is made before their files are there. Nothing is known of any
other model, and the plan says so. Upper bounds: every object that may be graded is there, and answers are as long as
allowed. Guesses of benchmarks (`ImageBenchmark.questions`) are named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from hermesflow.budget.benchmarks import drawings
from hermesflow.config.experiment import BASE, Config
from hermesflow.config.judges import Endpoint
from hermesflow.config.sections import Source
from hermesflow.evaluation.judges import cost
from hermesflow.evaluation.judges.protocol import Item
from hermesflow.evaluation.registry import image_benchmark
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import Pass


@dataclass(frozen=True)
class Released:
    """A released model."""

    parameters: float
    flops: float
    """Of one look at an image."""


DETECTOR = Released(68.7e6, 441.8e9)
"""Mask2Former Swin-S, 800 x 800 pixels."""
CLIP = Released(427.6e6, 162.0e9)
"""CLIP ViT-L/14."""
CLIP_TEXT = 13.1e9
"""FLOPs of CLIP ViT-L/14 for a text of 77 tokens."""
BLIP = Released(361.2e6, 134.7e9)
"""BLIP base with 384 pixels: an image, a question of 20 tokens and 10 tokens written."""
INCEPTION = Released(21.8e6, 11.4e9)
"""Inception of 2015, without its classifier."""
LOOKERS = {
    "mask2former-swin-small-coco-instance": DETECTOR,
    "clip-vit-large-patch14": CLIP,
    "blip-vqa-base": BLIP,
    "inception-2015": INCEPTION,
}
"""Source: torch's FlopCounterMode on these networks with random weights (transformers 5; sampling of grids is not
counted); two FLOPs a multiplication."""
CHATS = {"qwen3-vl-8b-instruct": 8.767e9}
"""Parameters of image-text-to-text models, counted likewise."""
CHAT_PIXELS = 32
"""Qwen3-VL: side of what one token shows (patches of 16, 2 x 2 together)."""
_HALF = 2  # bytes of a number of such a model
_FLOAT = 4


@dataclass
class Grading:
    """What grades one benchmark's images of a checkpoint and seed: the `Plan` that a benchmark tells its cost to."""

    config: Config
    settings: Any
    images: int
    questions: int
    asking: int
    passes: list[Pass] = field(default_factory=list)
    weights: float = 0
    """Bytes of the models; what they keep while they work is not counted."""
    unknown: list[str] = field(default_factory=list)
    """Names of the models that nothing is known of here; their work is not counted."""

    def look(self, model: str | Source, times: float) -> None:
        """A model sees so many images."""
        if known := LOOKERS.get(_name(model)):
            self.passes.append(Pass(times, known.flops, _FLOAT * known.parameters))
            self.weights += _FLOAT * known.parameters
        else:
            self.unknown.append(_title(model))

    def read(self, model: str | Source, times: float) -> None:
        """A CLIP reads so many texts; it is loaded already."""
        if _name(model) in LOOKERS:
            self.compute(times, flops=CLIP_TEXT, read=0)

    def ask(
        self,
        model: str | Source,
        times: float,
        *,
        written: int,
        prompt: int | None = None,
        dtype: str | None = None,
    ) -> None:
        """A model answers so many questions about one image each: one that looks, or a chat model."""
        if _name(model) in LOOKERS:
            self.look(model, times)
            return
        if (parameters := CHATS.get(_name(model))) is None:
            self.unknown.append(_title(model))
            return
        seen = (-(-self.config.data.image_size // CHAT_PIXELS)) ** 2
        prompt_length = self.asking if prompt is None else prompt
        read = _HALF * parameters
        self.compute(times, flops=2 * parameters * (seen + prompt_length), read=read)
        self.compute(times * (written - 1), flops=2 * parameters, read=read)
        self.weights += (_FLOAT if dtype == "float32" else _HALF) * parameters

    def compute(self, times: float, *, flops: float, read: float) -> None:
        """Arithmetic without a model."""
        self.passes.append(Pass(times, flops, read))


@dataclass(frozen=True)
class Bill:
    """What an endpoint is asked and costs at most, all together."""

    requests: float
    prompt_tokens: float
    completion_tokens: float
    dollars: float


def grading(config: Config, benchmark: str, lengths: Lengths) -> Grading:
    """The work of the models that grade a benchmark's images, as far as they are known."""
    one = image_benchmark(benchmark)
    images = drawings(config)[benchmark].total
    plan = Grading(config, one.settings(config.benchmarks), images, lengths.questions, lengths.asking)
    one.cost(plan)
    return plan


def unknown(config: Config) -> list[str]:
    """Names of the models that grade and that nothing is known of here."""
    lengths = Lengths.of(config)
    unknown_models = [grading(config, name, lengths).unknown for name in drawings(config)]
    return list(dict.fromkeys(name for names in unknown_models for name in names))


def bill(config: Config, checkpoint: str, lengths: Lengths) -> Bill | None:
    """What a checkpoint of all seeds asks an endpoint; None where none is asked.

    Of every question the judge sees the drawn image and reads what the model said; about the real image it is asked
    once for all checkpoints and seeds, for the answers are shared. That is counted with the base model.
    """
    gap = config.benchmarks and config.benchmarks.gap
    if not gap or not isinstance(gap.judge, Endpoint):
        return None
    questions = config.data.gap_pairs * lengths.questions
    image, text = (_item(lengths, evidence) for evidence in (b"", "x" * (cost.CHARACTERS_PER_TOKEN * lengths.answer)))
    counts = ((image, questions * (len(config.seeds) + (checkpoint == BASE))), (text, questions * len(config.seeds)))
    sent = written = 0
    for item, count in counts:
        one = cost.estimate([item], gap.judge.prices, max_tokens=gap.judge.max_tokens)
        sent, written = sent + count * one.prompt_tokens, written + count * one.completion_tokens
    requests = sum(count for _, count in counts)
    return Bill(requests, sent, written, cost.dollars(sent, written, gap.judge.prices))


def _item(lengths: Lengths, evidence: bytes | str) -> Item:
    """A question, with its choices, as long as the model under test may be asked."""
    return Item("", evidence, "x" * (cost.CHARACTERS_PER_TOKEN * lengths.asking), (), "")


def _name(source: str | Source) -> str:
    """The last part of a repository or folder, by which a released model is known."""
    return PurePosixPath(_title(source)).name.lower()


def _title(source: str | Source) -> str:
    return source if isinstance(source, str) else str(source.repo or source.folder)
