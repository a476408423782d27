"""What grades drawn images, and what it costs: other models' FLOPs, and an endpoint's price.

Released models are known here by name, because the plan is made before their files are there. Nothing is known of any
other model, and the plan says so. Upper bounds: every object that may be graded is there, and answers are as long as
allowed. Two guesses: `QUESTIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from hermesflow.budget.benchmarks import drawings
from hermesflow.budget.lengths import Lengths
from hermesflow.budget.machines import Pass
from hermesflow.config.experiment import BASE, Config
from hermesflow.config.judges import Endpoint, LocalVlm
from hermesflow.config.sections import Source
from hermesflow.evaluation.benchmarks.geneval import MOST_OBJECTS
from hermesflow.evaluation.judges import cost
from hermesflow.evaluation.judges.instructions import OF_IMAGE
from hermesflow.evaluation.judges.protocol import Item

QUESTIONS = {"dpg": 14, "geneval2": 8}
"""Questions about an image, of the original files; guesses."""
COLOURED = 94 + 2 * 100
"""Kinds of objects whose colour GenEval asks for, over all prompts: one in `colors`, two in `color_attr`."""


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
FEATURES = 2048
"""Inception's, whose covariance each resample of the Frechet distance makes anew."""
LOOKERS = {
    "mask2former-swin-small-coco-instance": DETECTOR,
    "clip-vit-large-patch14": CLIP,
    "blip-vqa-base": BLIP,
}
"""Source: torch's FlopCounterMode on these networks with random weights (transformers 5; sampling of grids is not
counted); two FLOPs a multiplication."""
CHATS = {"qwen3-vl-8b-instruct": 8.767e9}
"""Parameters of image-text-to-text models, counted likewise."""
CHAT_PIXELS = 32
"""Qwen3-VL: side of what one token shows (patches of 16, 2 x 2 together)."""
_HALF = 2  # bytes of a number of such a model
_FLOAT = 4


@dataclass(frozen=True)
class Grading:
    """What grades one benchmark's images of a checkpoint and seed."""

    passes: list[Pass]
    weights: float
    """Bytes of the models; what they keep while they work is not counted."""


@dataclass(frozen=True)
class Bill:
    """What an endpoint is asked and costs at most, all together."""

    requests: float
    prompt_tokens: float
    completion_tokens: float
    dollars: float


def grading(config: Config, benchmark: str, lengths: Lengths) -> Grading:
    """The work of the models that grade a benchmark's images, as far as they are known (`unknown`)."""
    own = config.benchmarks
    assert own is not None
    images = drawings(config)[benchmark].total
    if own.geneval and benchmark == "geneval":
        crops = COLOURED * own.geneval.images * MOST_OBJECTS
        return _looks((own.geneval.detector, images), (own.geneval.clip, crops))
    if own.dpg and benchmark == "dpg":
        judge, questions = own.dpg.judge, images * QUESTIONS[benchmark]
        looks = _looks((judge, questions))
        return looks if looks.passes else _chats(config, judge, questions, prompt=lengths.asking, written=10)
    if own.coco and benchmark == "coco":
        scored = _looks((own.coco.clip, images))
        texts = [Pass(images, CLIP_TEXT, 0)] if scored.passes else []
        seen = Pass(images, INCEPTION.flops, _FLOAT * INCEPTION.parameters)
        again = Pass(config.evaluation.bootstrap, 2 * images * FEATURES**2, 8 * images * FEATURES)
        return Grading([*scored.passes, *texts, seen, again], scored.weights + _FLOAT * INCEPTION.parameters)
    if own.geneval2 and benchmark == "geneval2":
        questions = images * QUESTIONS[benchmark]
        return _chats(config, own.geneval2.judge, questions, prompt=lengths.asking, written=1)
    if own.gap and benchmark == "gap" and isinstance(own.gap.judge, LocalVlm):
        local, asked = own.gap.judge, 3 * images * lengths.questions  # drawn, real, said
        prompt = len(OF_IMAGE) // cost.CHARACTERS_PER_TOKEN + lengths.asking
        there = _chats(config, local.model, asked, prompt=prompt, written=local.max_new_tokens)
        return Grading(there.passes, there.weights * (_FLOAT if local.dtype == "float32" else _HALF) / _HALF)
    return Grading([], 0)


def unknown(config: Config) -> list[str]:
    """Names of the models that grade and that nothing is known of here."""
    own = config.benchmarks
    if own is None:
        return []
    found: list[str | Source] = []
    found += [own.geneval.detector, own.geneval.clip] if own.geneval else []
    found += [own.coco.clip] if own.coco else []
    strange = [_title(one) for one in found if _name(one) not in LOOKERS]
    judge = [own.dpg.judge] if own.dpg else []
    strange += [_title(one) for one in judge if _name(one) not in LOOKERS.keys() | CHATS.keys()]
    chats: list[str | Source] = [own.geneval2.judge] if own.geneval2 else []
    chats += [own.gap.judge.model] if own.gap and isinstance(own.gap.judge, LocalVlm) else []
    return list(dict.fromkeys([*strange, *(_title(one) for one in chats if _name(one) not in CHATS)]))


def bill(config: Config, checkpoint: str, lengths: Lengths) -> Bill | None:
    """What a checkpoint of all seeds asks an endpoint; None where none is asked.

    Of every question the judge sees the drawn image and reads what the model said; about the real image it is asked
    once for all checkpoints and seeds, for the answers are shared. That is counted with the base model.
    """
    gap = config.benchmarks and config.benchmarks.gap
    if not gap or not isinstance(gap.judge, Endpoint):
        return None
    asked = config.data.gap_pairs * lengths.questions
    image, text = (_item(lengths, evidence) for evidence in (b"", "x" * (cost.CHARACTERS_PER_TOKEN * lengths.answer)))
    counts = ((image, asked * (len(config.seeds) + (checkpoint == BASE))), (text, asked * len(config.seeds)))
    sent = written = 0
    for item, count in counts:
        one = cost.estimate([item], gap.judge.prices, max_tokens=gap.judge.max_tokens)
        sent, written = sent + count * one.prompt_tokens, written + count * one.completion_tokens
    requests = sum(count for _, count in counts)
    return Bill(requests, sent, written, cost.dollars(sent, written, gap.judge.prices))


def _item(lengths: Lengths, evidence: bytes | str) -> Item:
    """A question, with its choices, as long as the model under test may be asked."""
    return Item("", evidence, "x" * (cost.CHARACTERS_PER_TOKEN * lengths.asking), (), "")


def _looks(*models: tuple[str | Source, int]) -> Grading:
    known = [(LOOKERS[_name(source)], times) for source, times in models if _name(source) in LOOKERS]
    passes = [Pass(times, one.flops, _FLOAT * one.parameters) for one, times in known]
    return Grading(passes, _FLOAT * sum(one.parameters for one, _ in known))


def _chats(config: Config, source: str | Source, questions: int, *, prompt: int, written: int) -> Grading:
    """Questions about one image each, to a model that writes so many tokens."""
    parameters = CHATS.get(_name(source))
    if parameters is None:
        return Grading([], 0)
    seen = (-(-config.data.image_size // CHAT_PIXELS)) ** 2
    weights = _HALF * parameters
    passes = [
        Pass(questions, 2 * parameters * (seen + prompt), weights),
        Pass(questions * (written - 1), 2 * parameters, weights),
    ]
    return Grading(passes, weights)


def _name(source: str | Source) -> str:
    """The last part of a repository or folder, by which a released model is known."""
    return PurePosixPath(_title(source)).name.lower()


def _title(source: str | Source) -> str:
    return source if isinstance(source, str) else str(source.repo or source.folder)
