"""Each piece of work in a process of its own: `python tests/budget_peaks.py` prints peaks in bytes by work and size.

The processes are forks of one that has loaded the libraries and done nothing yet.

The peak is what the kernel saw of the process, above what it held before the model was made. glibc keeps freed memory
unless it is told not to (`MALLOC_` variables of the test).
"""

import json
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.config.sections import Decoding, ImageSampling
from hermesflow.models import text_session
from hermesflow.models.backbone import meta_model, new_model, recompute_activations
from hermesflow.models.costs.memory import Call, image_calls, text_calls
from hermesflow.models.showo.costs.decoder import Decoder
from hermesflow.models.showo.generation import generate_images
from hermesflow.models.showo.model import ShowO
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.training.pair_dpo import new_optimizer

MICRO = Path(__file__).parents[2] / "config" / "micro.yaml"
CAPTION = " ".join(["red"] * 20)
STEPS, TOKENS = 3, 4
PROMPT = "describe the image"


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    image_size: int
    rows: int


SIZES = {"small": Size(256, 6, 24 * 10, 8), "large": Size(512, 4, 24 * 14, 10)}


def config_of(size: Size) -> Config:
    """The micro config with a wider, deeper model and more image tokens."""
    config = load_config(MICRO)
    heads = size.hidden // 64
    model = replace(
        config.language_model,
        hidden_size=size.hidden,
        layers=size.layers,
        heads=heads,
        intermediate_size=4 * size.hidden,
    )
    return replace(config, language_model=model, data=replace(config.data, image_size=size.image_size))


def calls_of(decoder: Decoder, pairs: int) -> list[Call]:
    """The calls of `train` below."""
    return [
        *text_calls(decoder, images=pairs, prompts=pairs, prompt_length=4, rows=2 * pairs, scored=21),
        *image_calls(decoder, prompts=pairs, prompt_length=23, rows=2 * pairs, scored=decoder.image_tokens),
    ]


def train(model: ShowO, config: Config, size: Size, *, recomputed: bool) -> None:
    """Two steps of what Pair-DPO does, all image tokens masked."""
    if recomputed:
        recompute_activations(model)
    optimizer = new_optimizer(model, config.training)
    pairs = size.rows // 2
    codes = torch.zeros(pairs, config.num_image_tokens, dtype=torch.int64)
    owners = torch.arange(pairs).repeat(2)
    for _ in range(2):
        texts = model.text_logps(codes, [PROMPT] * 2 * pairs, [CAPTION] * 2 * pairs, owners=owners)
        masked = torch.ones(2 * pairs, config.num_image_tokens, dtype=torch.bool)
        drawn = model.image_logps([CAPTION] * pairs, codes.repeat(2, 1), masked, owners=owners)
        (texts.sum() + drawn.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def draw(model: ShowO, config: Config, size: Size, *, guidance: float) -> None:
    """Some images from two prompts."""
    settings = ImageSampling(n=1, steps=STEPS, guidance=guidance, temperature=1.0, temperature_schedule="linear")
    prompts = [f"{CAPTION} {word}" for word in ("circle", "square")] * (size.rows // 2)
    generators = [torch.Generator() for _ in prompts]
    generate_images(model, prompts, settings=settings, generators=generators)


def answer(model: ShowO, config: Config, size: Size) -> None:
    """Several questions about each image, as self-VQA asks them.

    Room for keys and values is written to at once: on the CPU it would take no memory before.
    """
    text_session.room = lambda like, *shape: tuple(x.new_ones(shape) for x in like)
    codes = torch.arange(2 * config.num_image_tokens).reshape(2, -1) % config.codebook_size
    rows = 4 * size.rows
    model.end_token = -1  # no text ends early
    model.detokenize = lambda ids: ""
    sample_texts(
        model,
        codes,
        torch.arange(rows) % 2,
        [f"{CAPTION} {'blue ' * (k // 2)}" for k in range(rows)],
        decodings=[Decoding(top_k=1, temperature=1.0)] * rows,
        max_new_tokens=TOKENS,
        generators=[torch.Generator()] * rows,
    )


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


WORKS = {
    "train": lambda *given: train(*given, recomputed=False),
    "train recomputed": lambda *given: train(*given, recomputed=True),
    "draw": lambda *given: draw(*given, guidance=0.0),
    "draw guided": lambda *given: draw(*given, guidance=5.0),
    "answer": answer,
}


def peak(work: str, size: Size) -> int:
    """Do a tiny one of the work first, so that all it needs is there."""
    tiny = Size(64, 1, 48, 2)
    WORKS[work](new_model(config_of(tiny), seed=0), config_of(tiny), tiny)
    before = status("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    config = config_of(size)
    WORKS[work](new_model(config, seed=0), config, size)
    return status("VmHWM") - status("RssFile") - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    meta_model(config_of(SIZES["small"]))  # loads what a model needs
    with get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        peaks = {work: pool.starmap(peak, [(work, size) for size in SIZES.values()], chunksize=1) for work in WORKS}
    print(json.dumps({work: dict(zip(SIZES, found, strict=True)) for work, found in peaks.items()}))
