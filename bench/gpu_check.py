"""What a GPU does: the contract on it, the hot paths against its limit, one step of 1.3B, and ways not taken yet.

    python -m bench.gpu_check [--device cuda] [--output docs/results/gpu]

At most eight minutes on one card, with nothing downloaded; needs torch, transformers, accelerate, pandas, pyarrow and
pydantic (which needs pydantic-core, annotated-types and typing-inspection), the contract suite pytest and datasets too
(dill, multiprocess): a machine without a network gets their wheels unpacked on PYTHONPATH. Writes check.json and
README.md. Without a card all of it runs at a tiny size on the CPU, so that it cannot rot. Parts stand alone: one that
fails is reported, and the others go on.

A path's limit is the longer of its FLOPs at the measured peak of matrix products and of reading the weights once for
every call of the decoder at the measured bandwidth; both are counted while our path runs.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from bench import full_size, measuring, sizes, works
from bench.alternatives import WINS, FixedSession, with_flex_attention
from hermesflow.config.experiment import Config
from hermesflow.config.sections import Precision
from hermesflow.core.files import git_revision, write_json
from hermesflow.core.images import ImageForm, as_tensor
from hermesflow.core.seeding import generator
from hermesflow.data.microworld.world import WORLD
from hermesflow.models import backbone
from hermesflow.models.backbone import UnifiedModel
from hermesflow.models.loading import DTYPES
from hermesflow.models.showo.model import ShowO
from hermesflow.selfplay.preferences import CAPTION_COLUMNS
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.selfplay.scoring import vqa_generate, vqa_likelihood
from hermesflow.training.logps import PairLogps
from hermesflow.training.pair_dpo import step_loss
from hermesflow.training.pairs import HomologousPairs, PairBatch

ROOT = Path(__file__).parents[1]
SECONDS = 480.0
"""A part that has not begun by then is left out."""
GIB = 2**30
PRECISIONS: tuple[Precision, ...] = ("no", "bf16")
Run = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much work the parts get."""

    model: Mapping[str, int]
    """Of the config's `language_model`."""
    side: int
    """Tokens of an image are its square."""
    codebook_bits: int
    images: int
    """That are described, asked about and generated."""
    captions: int
    """Of each image."""
    tokens: int
    steps: int
    """Of image generation."""
    questions: int
    pairs: int
    pair_words: int
    product: int
    """Side of the matrices whose product is the peak."""
    full: str
    """Of `full_size.SIZES`."""
    full_words: tuple[int, tuple[int, int]]
    """Words of the caption and of both candidates there."""
    tests: tuple[str, ...]
    """Options of pytest."""


MEDIUM = {"hidden_size": 512, "layers": 8, "heads": 8, "intermediate_size": 2048, "max_text_tokens": 128}
TINY = {"hidden_size": 64, "layers": 2, "heads": 2, "intermediate_size": 128, "max_text_tokens": 32}
SIZES = {
    "medium": Size(
        model=MEDIUM,
        side=16,
        codebook_bits=13,
        images=8,
        captions=10,
        tokens=100,
        steps=50,
        questions=8,
        pairs=4,
        pair_words=64,
        product=8192,
        full="released",
        full_words=(full_size.CAPTION_WORDS, full_size.CANDIDATE_WORDS),
        tests=(),
    ),
    "tiny": Size(
        model=TINY,
        side=4,
        codebook_bits=6,
        images=2,
        captions=2,
        tokens=5,
        steps=3,
        questions=2,
        pairs=2,
        pair_words=9,
        product=128,
        full="tiny",
        full_words=(20, (15, 10)),
        tests=("-k", "image_logps"),
    ),
}


@dataclass(frozen=True)
class Card:
    """What is measured on, and what it reaches."""

    device: torch.device
    peaks: Mapping[Precision, float]
    """FLOP/s of large matrix products."""
    bandwidth: float
    """Bytes read and written per second by a copy."""

    @staticmethod
    def measured(device: torch.device, size: Size) -> Card:
        """Products of float32 without TF32 and of bfloat16, and a copy of as many bytes as 16 matrices."""
        peaks: dict[Precision, float] = {}
        for precision in PRECISIONS:
            matrix = torch.randn(size.product, size.product, device=device, dtype=DTYPES[precision])
            peaks[precision] = 2 * size.product**3 / timed(partial(torch.mm, matrix, matrix), device)[0]
        source = torch.ones(16, size.product, size.product, device=device, dtype=torch.uint8)
        target = torch.empty_like(source)
        return Card(device, peaks, 2 * source.numel() / timed(lambda: target.copy_(source), device)[0])


def main() -> None:
    """Run all parts and write both files."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__.split("\n")[0])
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=found, help=f"torch device (default here: {found})")
    parser.add_argument("--size", choices=SIZES, help="default: medium on a GPU, tiny on the CPU")
    parser.add_argument("--output", type=Path, default=Path("docs/results/gpu"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    size = SIZES[arguments.size or ("tiny" if device.type == "cpu" else "medium")]
    results = check(device, size)
    write_json(arguments.output / "check.json", results)
    text = table(results)
    (arguments.output / "README.md").write_text(text)
    print(text)


def check(device: torch.device, size: Size) -> dict[str, Any]:
    """All parts, one after the other while there is time."""
    start, card = time.perf_counter(), Card.measured(device, size)
    parts: dict[str, Callable[[], Any]] = {
        "contract": partial(contract, device, size),
        **{f"paths of {family}": partial(paths, card, size, family) for family in backbone.families()},
        "full size": partial(full, card, size),
        "alternatives": partial(alternatives, card, size),
    }
    results: dict[str, Any] = {"machine": machine(card)}
    for name, part in parts.items():
        begun = time.perf_counter()
        if begun - start > SECONDS:
            results[name] = {"error": "no time was left"}
            continue
        try:
            results[name] = part()
        except Exception as error:  # whatever a card or a version of torch does not do: the other parts are of use
            traceback.print_exc()
            results[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        free(device)
        print(f"{name}: {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
    return results | {"seconds": time.perf_counter() - start}


def machine(card: Card) -> dict[str, Any]:
    """What the figures depend on."""
    name = torch.cuda.get_device_name(card.device) if card.device.type == "cuda" else "CPU"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "git": git_revision()}
    return {"name": name, "peaks": dict(card.peaks), "bandwidth": card.bandwidth, **versions}


# the contract


def contract(device: torch.device, size: Size) -> dict[str, Any]:
    """What every backbone must do (tests/models/test_contract.py), on this device against the CPU."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", *size.tests]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HERMESFLOW_TEST_DEVICE": device.type}
    done = subprocess.run(
        [*command, "tests/models/test_contract.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    return {"passed": 0, "failed": 0, **counts, "status": done.returncode, "tail": done.stdout[-4000:]}


# the five paths


def paths(card: Card, size: Size, family: str) -> list[dict[str, Any]]:
    """Seconds, tokens per second, memory and share of the limit of each path in each precision."""
    config, rows = sizes.config_of(family, size.model, side=size.side, codebook_bits=size.codebook_bits), []
    for precision in PRECISIONS:
        model = backbone.new_model(config, seed=0).to(card.device)
        model.end_token = -1  # no text ends early, and none is empty
        model.detokenize = lambda ids: " ".join(map(str, ids))  # type: ignore[method-assign]
        step, policy = dpo_step(model, pair_batch(config, model, size, card.device), precision)
        rows.append({**measured(card, step, policy, precision), "model": family, "path": "pair_dpo_step"})
        del step, policy
        model.to(DTYPES[precision])
        for name, run in inference(config, model, size).items():
            rows.append({**measured(card, run, model, precision), "model": family, "path": name})
    return rows


def inference(config: Config, model: UnifiedModel, size: Size) -> dict[str, Run]:
    """The paths that train nothing."""
    seen = as_tensor(random_images(config, model.seen, size.images))
    owners = torch.arange(size.images).repeat_interleave(size.captions)
    choices = tuple(words(1 + c, "choice", c) for c in range(4))
    asked = [sizes.question(words(5 + k, "question", k), choices) for k in range(size.questions)]
    about = torch.zeros(len(asked), dtype=torch.int64)
    settings = sizes.drawing(size.steps)
    prompts = [words(size.pair_words // 2, "prompt", k % 4) for k in range(2 * size.images)]
    options: dict[str, Any] = {"encoder": sizes.WordEncoder(), "max_answer_tokens": max(size.tokens // 6, 1)}
    return {
        "captioning": lambda: sample_texts(
            model,
            seen,
            owners,
            [model.caption_prompt] * len(owners),
            decodings=sizes.decodings(len(owners)),
            max_new_tokens=size.tokens,
            generators=sizes.generators(len(owners)),
        ),
        "vqa_generate": lambda: vqa_generate(model, seen[:1], about, asked, **options),
        "vqa_likelihood": lambda: vqa_likelihood(model, seen[:1], about, asked),
        "image_decoding": lambda: model.generate_images(
            prompts, settings=settings, generators=sizes.generators(len(prompts))
        ),
    }


def dpo_step(model: UnifiedModel, batch: PairBatch, precision: Precision) -> tuple[Run, UnifiedModel]:
    """A step of Pair-DPO, and the copy of the model that it trains; float32 weights are rounded product by product."""
    policy, optimizer = works.trained(model)  # type: ignore[arg-type]
    scorer, device = PairLogps(policy, "pair").eval(), model.device.type

    def mixed() -> Any:
        return nullcontext() if precision == "no" else torch.autocast(device, dtype=DTYPES[precision])

    with torch.no_grad(), mixed():
        reference = scorer(batch)

    def run() -> Tensor:
        with mixed():
            logps = scorer(batch)
        loss = step_loss(logps, reference, objective="pair", training=sizes.TRAINING)[0].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), sizes.TRAINING.max_grad_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return run, policy


def pair_batch(config: Config, model: UnifiedModel, size: Size, device: torch.device) -> PairBatch:
    """Random homologous pairs of a model."""
    import pandas as pd

    names = [f"pair-{k}" for k in range(size.pairs)]
    images, seen = random_images(config, model.generated, size.pairs, 2), random_images(config, model.seen, size.pairs)
    texts = [[words(size.pair_words, name, side) for side in ("chosen", "rejected", "caption")] for name in names]
    records = [[name, *row[:2], 1.0, 0.0] for name, row in zip(names, texts, strict=True)]
    pairs = HomologousPairs(
        pd.DataFrame(records, columns=list(CAPTION_COLUMNS)),
        images=dict(zip(names, images, strict=True)),
        captions={name: row[2] for name, row in zip(names, texts, strict=True)},
        seen=dict(zip(names, seen, strict=True)),
        seed=0,
        iteration=1,
        noise=partial(model.noise, settings=sizes.TRAINING),
    )
    return pairs.batch(pairs.rows(size.pairs), device=device)


def random_images(config: Config, form: ImageForm, *leading: int) -> np.ndarray:
    """Stored arrays of a form, (*leading, *form.shape)."""
    random = np.random.default_rng(0)
    if form.kind == "latents":
        return random.standard_normal((*leading, *form.shape)).astype(form.dtype)
    high = config.codebook_size if form.kind == "codes" else 256
    return random.integers(0, high, (*leading, *form.shape)).astype(form.dtype)


def words(count: int, *names: str | int) -> str:
    """A text of so many words of the small world, the same for the same names."""
    known = WORLD.vocabulary()
    picked = torch.randint(len(known), (count,), generator=generator("gpu check", count, *names))
    return " ".join(known[k] for k in picked.tolist())


# 1.3B


def full(card: Card, size: Size) -> list[dict[str, Any]]:
    """A step of Pair-DPO and the sampling of two pairs, ten captions and eight images each, with random weights."""
    model = full_model(card.device, size)
    step, policy = dpo_step(model, full_batch(model, size), "bf16")
    name = f"Show-o {size.full}"
    rows = [{**measured(card, step, policy, "bf16"), "model": name, "path": "pair_dpo_step"}]
    del step, policy
    free(card.device)
    model.to(torch.bfloat16)
    for path, run in full_sampling(model, size).items():
        rows.append({**measured(card, run, model, "bf16"), "model": name, "path": path})
    return rows


def full_model(device: torch.device, size: Size) -> ShowO:
    """Show-o of this size with random weights; no text ends early."""
    with torch.device(device):
        model = full_size.random_model(size.full)
    assert isinstance(model, ShowO)
    model.end_token = -1
    return model.to(device)


def full_batch(model: ShowO, size: Size) -> PairBatch:
    """One homologous pair, as `bench.full_size` has it."""
    caption, candidates = size.full_words
    pairs = full_size.one_pair(model, full_size.words(caption), candidates)
    return pairs.batch(pairs.rows(1), device=model.device)


def full_sampling(model: ShowO, size: Size) -> dict[str, Run]:
    """A shard of two pairs: their captions, and their images."""
    form, rows = model.seen, 2 * size.captions
    seen = torch.from_numpy(np.random.default_rng(0).integers(0, model.codebook_size, (2, *form.shape)))
    prompts = [full_size.words(size.full_words[0] // (1 + k // size.images)) for k in range(2 * size.images)]
    return {
        "captioning": lambda: sample_texts(
            model,
            seen,
            torch.arange(2).repeat_interleave(size.captions),
            [model.caption_prompt] * rows,
            decodings=sizes.decodings(rows),
            max_new_tokens=size.tokens,
            generators=sizes.generators(rows),
        ),
        "image_decoding": lambda: model.generate_images(
            prompts, settings=sizes.drawing(size.steps), generators=sizes.generators(len(prompts))
        ),
    }


# other ways


def alternatives(card: Card, size: Size) -> list[dict[str, Any]]:
    """Each against today's way at the full size in bfloat16; `kept` says whether it wins by a tenth."""
    device, rows = card.device, []
    model = full_model(device, size)
    batch = full_batch(model, size)
    for name, way in {"FlexAttention": flex_against_packing, "torch.compile": compiled_step}.items():
        rows.append({"way": name, **against(device, partial(way, model, batch))})
        free(device)
    model.to(torch.bfloat16)
    rows.append({"way": "CUDA graph of a one-token step", **against(device, partial(recorded_step, model, size))})
    return rows


def against(device: torch.device, make: Callable[[], tuple[Run, Run]]) -> dict[str, Any]:
    """Seconds of today's way and of another, and whether that wins; what fails does not win."""
    try:
        today, other = make()
        one, another = timed(today, device)[0], timed(other, device)[0]
    except Exception as error:  # a compiler may be missing, or not know an operation
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:500], "kept": False}
    return {"today": one, "other": another, "times_as_fast": one / another, "kept": one / another >= WINS}


def flex_against_packing(model: ShowO, batch: PairBatch) -> tuple[Run, Run]:
    """Forward and backward of both captions about an image; on the CPU, where it has no backward, forward."""
    prompts = [model.caption_prompt] * 2
    completions, on_gpu = [*batch.chosen_captions, *batch.rejected_captions], model.device.type == "cuda"

    def run() -> Tensor:
        model.zero_grad()
        with torch.set_grad_enabled(on_gpu), torch.autocast(model.device.type, dtype=torch.bfloat16):
            logps = model.text_logps(batch.seen, prompts, completions, owners=torch.zeros(2, dtype=torch.int64))
        if on_gpu:
            logps.sum().backward()
        return logps.detach()

    other = with_flex_attention(run)
    check_close(run(), other(), 1e-2)
    return run, other


def compiled_step(model: ShowO, batch: PairBatch) -> tuple[Run, Run]:
    """A step of Pair-DPO, and one whose decoder layers are compiled, where there is a compiler."""
    (today, _), (other, policy) = (dpo_step(model, batch, "bf16") for _ in range(2))
    if model.device.type == "cuda":
        for layer in policy.decoder_layers:
            layer.compile(dynamic=True)
    check_close(today(), other(), 1e-2)
    return today, other


def recorded_step(model: ShowO, size: Size) -> tuple[Run, Run]:
    """Some steps of ten captions of each of two images, and the same steps recorded once."""
    owners = torch.arange(2).repeat_interleave(size.captions)
    seen = torch.from_numpy(np.random.default_rng(0).integers(0, model.codebook_size, (2, *model.seen.shape)))
    tokens, steps = torch.arange(len(owners)) + 2, 3 + size.tokens // 5
    session, start = (model.text_session(seen, owners, [model.caption_prompt] * len(owners)) for _ in range(2))
    fixed = FixedSession(model, start, tokens=8 * steps)  # type: ignore[arg-type]
    check_close(session.step(tokens).float(), fixed.step(tokens.to(model.device)).float(), 5e-2)

    def several(step: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        for _ in range(steps):
            logits = step(tokens)
        return logits

    return partial(several, session.step, tokens), partial(several, fixed.step, tokens.to(model.device))


def check_close(one: Tensor, other: Tensor, tolerance: float) -> None:
    """Another way must compute the same.

    Raises:
        AssertionError: it does not.
    """
    torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance * float(one.abs().max()))


# measuring


def measured(card: Card, run: Run, model: UnifiedModel, precision: Precision) -> dict[str, Any]:
    """Seconds, memory, tokens through the decoder per second, and the share of the limit."""
    layers = model.decoder_layers
    with counting(layers) as counts:
        flops = measuring.counted(run)
    seconds, peak = timed(run, card.device)
    weights = sum(p.numel() * DTYPES[precision].itemsize for layer in layers for p in layer.parameters())
    limit = max(flops / card.peaks[precision], counts["calls"] * weights / card.bandwidth)
    return {
        "precision": precision,
        "seconds": seconds,
        "tokens_per_second": counts["tokens"] / seconds,
        "peak_gib": peak / GIB,
        "limit_seconds": limit,
        "fraction_of_limit": limit / seconds,
    }


@contextmanager
def counting(layers: Sequence[torch.nn.Module]) -> Iterator[dict[str, int]]:
    """Count the calls of a decoder and the tokens that run through it, at its first layer."""
    counts = {"calls": 0, "tokens": 0}

    def count(module: torch.nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else options["hidden_states"]
        counts["calls"] += 1
        counts["tokens"] += hidden.shape[0] * hidden.shape[1]

    handles = [layer.register_forward_pre_hook(count, with_kwargs=True) for layer in layers[:1]]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def timed(run: Run, device: torch.device, *, repeats: int = 3) -> tuple[float, int]:
    """Median seconds of some runs after a first, and the peak of allocated memory, 0 on the CPU."""
    on_gpu, seconds = device.type == "cuda", []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(1 + repeats):
        if on_gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), torch.cuda.max_memory_allocated(device) if on_gpu else 0


def free(device: torch.device) -> None:
    """Give back the memory of what is done."""
    measuring.release_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# the table


def table(results: Mapping[str, Any]) -> str:
    """All figures as one page of Markdown."""
    made = results["machine"]
    peaks = ", ".join(f"{peak / 1e12:.3g} TFLOP/s in {NAMES[p]}" for p, peak in made["peaks"].items())
    lines = [
        "# On a GPU",
        "",
        f"{made['name']}, torch {made['torch']}, transformers {made['transformers']}, revision {made['git'][:8]}, by "
        f"`make gpu-check` in {results['seconds']:.0f} s. Products reach {peaks}; a copy moves "
        f"{made['bandwidth'] / 1e9:.0f} GB/s. How limits are counted: `bench/gpu_check.py`. Weights are random.",
        "",
        _contract(results["contract"]),
        "",
        "| model | path | precision | seconds | tokens/s | peak GiB | share of the limit |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for part, rows in results.items():
        if part.startswith("paths of ") or part == "full size":
            lines += [f"| {_row(row)} |" for row in rows] if isinstance(rows, list) else [_failed(part, rows, 6)]
    lines += ["", "| another way | today, s | other, s | times as fast | wins by a tenth |", "|---|---:|---:|---:|---|"]
    rows = results["alternatives"]
    lines += [f"| {_way(row)} |" for row in rows] if isinstance(rows, list) else [_failed("all", rows, 4)]
    return "\n".join(lines) + "\n"


NAMES = {"no": "float32", "bf16": "bfloat16"}


def _contract(counts: Mapping[str, Any]) -> str:
    if "passed" not in counts:
        return f"The contract suite did not run: {counts['error']}."
    return f"The contract suite on this device: {counts['passed']} passed, {counts['failed']} failed."


def _row(row: Mapping[str, Any]) -> str:
    return (
        f"{row['model']} | {row['path']} | {NAMES[row['precision']]} | {row['seconds']:.3g} | "
        f"{row['tokens_per_second']:.3g} | {row['peak_gib']:.2f} | {row['fraction_of_limit']:.0%}"
    )


def _way(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['way']} | {row['error'].splitlines()[0]} | | | no"
    kept = "yes" if row["kept"] else "no"
    return f"{row['way']} | {row['today']:.3g} | {row['other']:.3g} | {row['times_as_fast']:.2f} | {kept}"


def _failed(part: str, results: Mapping[str, Any], columns: int) -> str:
    """A row of a part that has none."""
    return f"| {part} | {results['error'].splitlines()[0]} |" + " |" * (columns - 1)


if __name__ == "__main__":
    main()
