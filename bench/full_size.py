"""One Pair-DPO step and two MaskGIT steps at the size of Show-o 1.3B (256 px) on the CPU, with random weights.

    python -m bench.full_size

The Pair-DPO step is the first of a training by `hermesflow.training.pair_dpo`: one pair of captions and one of images,
autocast to bfloat16, recomputed activations, gradients clipped by their norm, AdamW. Weights, gradients and moments are
float32, as in training on GPUs. One thing is different: AdamW goes parameter by parameter and drops each gradient
behind it, so that gradients and moments are never all there at once (docs/decisions/0008). Values are the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from hermesflow.config.sections import ImageSampling, Training
from hermesflow.core.files import write_json
from hermesflow.core.seeding import generator
from hermesflow.models.backbone import recompute_activations
from hermesflow.models.showo.generation import generate_images
from hermesflow.models.showo.model import Shape, ShowO
from hermesflow.models.text_tokenizers import word_tokenizer
from hermesflow.selfplay.preferences import CAPTION_COLUMNS
from hermesflow.training.distributed import new_accelerator
from hermesflow.training.logps import PairLogps, ReferenceTable, reference_logps
from hermesflow.training.pair_dpo import learning_rate, new_optimizer, step_loss
from hermesflow.training.pairs import HomologousPairs

GIB = 2**30
_OTHERS = {"partial_rotary_factor": 0.5, "rope_theta": 10_000.0, "layer_norm_eps": 1e-5, "max_text_tokens": 128}
SIZES = {
    "1.3b": (
        Shape(
            hidden_size=2048,
            layers=24,
            heads=32,
            intermediate_size=8192,
            num_image_tokens=256,
            codebook_size=8192,
            **_OTHERS,
        ),
        50_295,
    ),
    "tiny": (
        Shape(
            hidden_size=64,
            layers=2,
            heads=2,
            intermediate_size=128,
            num_image_tokens=16,
            codebook_size=64,
            **_OTHERS,
        ),
        500,
    ),
}
"""Shape and text vocabulary; `tiny` is for tests."""
TRAINING = Training(
    steps=3000,
    batch_size=1,
    learning_rate=2e-5,
    weight_decay=0.01,
    warmup_steps=150,
    max_grad_norm=1.0,
    beta=0.2,
    checkpoint_every=500,
)
DRAWING = ImageSampling(n=1, steps=2, guidance=5.0, temperature=1.0, temperature_schedule="linear")
CAPTION_WORDS, CANDIDATE_WORDS = 125, (100, 80)  # of the prompt of images; of the captions chosen and rejected


def main() -> None:
    """Run both and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.full_size", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="1.3b")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--output", type=Path, default=Path("results/bench/full_size.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, dict[str, float]] = {}
    with measured(found, "weights"):
        model = random_model(arguments.size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    caption = words(CAPTION_WORDS)
    with measured(found, "two drawing steps, float32"):
        generate_images(model, [caption], settings=DRAWING, generators=[generator("full size")])
    pairs = one_pair(model, caption)
    accelerator = new_accelerator(TRAINING, device="cpu", precision="bf16")
    first = Training(**{**vars(TRAINING), "steps": 1, "warmup_steps": 0})
    with measured(found, "reference log-probs, bf16"):
        table = reference_logps(model, pairs, training=first, accelerator=accelerator, what="reference")
    recompute_activations(model)
    with measured(found, "Pair-DPO: forward and backward, bf16"):
        values = gradients(model, pairs, ReferenceTable(table), training=TRAINING, accelerator=accelerator)
    with measured(found, "Pair-DPO: AdamW, float32"):
        update(model, training=TRAINING)
    print(f"{parameters:,} parameters; loss {values['loss']:.6f} (2 ln 2 = 1.386294), |g| {values['grad_norm']:.4f}")
    print(f"peak {max(part['GiB'] for part in found.values()):.2f} GiB of the whole process")
    write_json(arguments.output, {"size": arguments.size, "parameters": parameters, **values, "parts": found})


@contextmanager
def measured(found: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Time a part of the work and take the kernel's word for the peak of the process meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.perf_counter()
    yield
    found[name] = {"seconds": time.perf_counter() - start, "GiB": _status("VmHWM") / GIB}
    print(f"{name:38}{found[name]['seconds']:9.1f} s{found[name]['GiB']:8.2f} GiB at the peak", flush=True)


def words(count: int) -> str:
    """A text of so many tokens."""
    return " ".join(f"w{k}" for k in range(count))


def random_model(size: str) -> ShowO:
    """A model with random float32 weights and a vocabulary of made-up words."""
    shape, vocabulary = SIZES[size]
    torch.manual_seed(0)
    tokenizer = word_tokenizer([f"w{k}" for k in range(vocabulary - 2)])
    return ShowO(shape, tokenizer, caption_prompt=words(10), question_template="{}").eval()


def one_pair(model: ShowO, caption: str, candidates: tuple[int, int] = CANDIDATE_WORDS) -> HomologousPairs:
    """A homologous pair of random images and made-up captions of so many words."""
    codes = np.random.default_rng(0).integers(0, model.codebook_size, (3, model.num_image_tokens))
    chosen, rejected = (words(count) for count in candidates)
    preferences = pd.DataFrame([["a", chosen, rejected, 1.0, 0.0]], columns=list(CAPTION_COLUMNS))
    return HomologousPairs(
        preferences,
        images={"a": codes[:2]},
        captions={"a": caption},
        seen={"a": codes[2]},
        seed=0,
        iteration=1,
        noise=partial(model.noise, settings=TRAINING),
    )


def gradients(
    model: ShowO, pairs: HomologousPairs, reference: ReferenceTable, *, training: Training, accelerator: Accelerator
) -> dict[str, float]:
    """Forward and backward pass of `train.train_policy`, and its clipping; leaves the gradients in the model."""
    policy = accelerator.prepare(PairLogps(model, "pair").eval())
    rows = pairs.rows(training.batch_size)
    logps = policy(pairs.batch(rows, device=accelerator.device))
    losses, _ = step_loss(logps, reference.lookup(rows, accelerator.device), objective="pair", training=training)
    loss: Tensor = losses.mean()
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(policy.parameters(), training.max_grad_norm)
    return {"loss": loss.item(), "grad_norm": float(norm)}


def update(model: ShowO, *, training: Training) -> list[torch.optim.AdamW]:
    """The first step of `train.new_optimizer`, parameter by parameter; gradients go, the returned moments stay."""
    done = []
    for group in new_optimizer(model, training).param_groups:
        for parameter in sorted(group["params"], key=Tensor.numel, reverse=True):  # what takes most room goes first
            own = torch.optim.AdamW([{**group, "params": [parameter], "lr": learning_rate(1, training)}])
            own.step()
            parameter.grad = None
            done.append(own)
    return done


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
