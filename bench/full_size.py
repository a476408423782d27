"""One Pair-DPO step and the first of an image, at the size of a released model, on the CPU, with random weights.

    python -m bench.full_size [--backbone janus-pro-1b]

The Pair-DPO step is the first of a training by `hermesflow.training.pair_dpo`: one pair of captions and one of images,
autocast to bfloat16, recomputed activations, gradients clipped by their norm, AdamW. Weights, gradients and moments are
float32, as in training on GPUs. One thing is different: AdamW goes parameter by parameter and drops each gradient
behind it, so that gradients and moments are never all there at once (docs/decisions/0008). Values are the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.config.sections import ImageSampling, Training
from hermesflow.core.files import write_json
from hermesflow.core.images import ImageForm
from hermesflow.core.seeding import generator
from hermesflow.models.backbone import UnifiedModel, meta_model, part, recompute_activations
from hermesflow.models.text_tokenizers import END_OF_TEXT, word_tokenizer
from hermesflow.selfplay.preferences import CAPTION_COLUMNS
from hermesflow.training.distributed import new_accelerator
from hermesflow.training.logps import PairLogps, ReferenceTable, reference_logps
from hermesflow.training.pair_dpo import learning_rate, new_optimizer, step_loss
from hermesflow.training.pairs import HomologousPairs

GIB = 2**30
CONFIGS = Path(__file__).parents[1] / "config"


@dataclass(frozen=True)
class Backbone:
    """A released model that is measured; its sizes are those of config/NAME.yaml."""

    words: int
    """Tokens of its text tokenizer."""
    image_size: int
    drawing: str
    """What is done of an image."""
    draw: Callable[[Any, str], None]
    """Does it, for a caption."""


def two_steps(model: Any, caption: str) -> None:
    """Two MaskGIT steps: the first shares its block between rows, the second does not."""
    model.generate_images([caption], settings=DRAWING, generators=[generator("full size")])


@torch.inference_mode()
def eight_tokens(model: Any, caption: str) -> None:
    """The prompt and eight tokens, guided."""
    session = model.image_session([caption], guidance=4.0)
    for _ in range(7):
        session.step(session.logits.argmax(dim=1))


BACKBONES = {
    "showo": Backbone(50_295, 256, "two drawing steps", two_steps),
    "janus-pro-1b": Backbone(100_016, 384, "eight image tokens", eight_tokens),
}
SIZES = ("released", "tiny")
"""`tiny` is for tests."""
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
    parser.add_argument("--backbone", choices=BACKBONES, default="showo")
    parser.add_argument("--size", choices=SIZES, default="released")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--output", type=Path, help="default results/bench/full_size-BACKBONE.json")
    arguments = parser.parse_args()
    own = BACKBONES[arguments.backbone]
    output = arguments.output or Path(f"results/bench/full_size-{arguments.backbone}.json")
    torch.set_num_threads(arguments.threads)
    found: dict[str, dict[str, float]] = {}
    with measured(found, "weights"):
        model = random_model(arguments.size, arguments.backbone)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    caption = words(CAPTION_WORDS)
    with measured(found, f"{own.drawing}, float32"):
        own.draw(model, caption)
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
    about = {"backbone": arguments.backbone, "size": arguments.size, "parameters": parameters}
    write_json(output, {**about, **values, "parts": found})


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


def random_model(size: str, backbone: str = "showo") -> UnifiedModel:
    """A model with random float32 weights and a vocabulary of made-up words, frozen where loaded ones are."""
    count = 500 if size == "tiny" else BACKBONES[backbone].words
    with tempfile.TemporaryDirectory() as folder:
        word_tokenizer([f"w{k}" for k in range(count - 2)]).save(Path(folder) / "tokenizer.json")
        write_json(Path(folder) / "tokenizer_config.json", {"eos_token": END_OF_TEXT})
        described = meta_model(config_of(size, backbone, text_tokenizer=folder))
    torch.manual_seed(0)
    model: UnifiedModel = part(described.family, "model").rebuild(described.settings(), described.tokenizer)
    return model.eval()


def config_of(size: str, backbone: str, *, text_tokenizer: str) -> Config:
    """The backbone's config with prompts of made-up words."""
    config = load_config(CONFIGS / f"{backbone}.yaml")
    before = words(40) if config.language_model.text_before_image else None
    prompts: dict[str, Any] = {"caption_prompt": words(10), "question_template": "{}", "text_before_image": before}
    language = replace(config.language_model, text_tokenizer=text_tokenizer, image_template=None, **prompts)
    tokenizer, image_size = config.image_tokenizer, BACKBONES[backbone].image_size
    if size == "tiny":
        sizes: dict[str, Any] = {"hidden_size": 64, "layers": 2, "heads": 2, "intermediate_size": 128}
        vision = language.vision and replace(language.vision, **sizes)
        language = replace(language, **sizes, vision=vision, vocabulary=None)
        image_size = 4 * 2 ** (len(tokenizer.encoder_multipliers) - 1) * tokenizer.patch_size
        tokenizer = replace(tokenizer, channels=32, codebook_bits=6)
    return replace(
        config,
        data=replace(config.data, image_size=image_size),
        language_model=language,
        image_tokenizer=tokenizer,
    )


def one_pair(model: UnifiedModel, caption: str, candidates: tuple[int, int] = CANDIDATE_WORDS) -> HomologousPairs:
    """A homologous pair of random images and made-up captions of so many words."""
    chosen, rejected = (words(count) for count in candidates)
    preferences = pd.DataFrame([["a", chosen, rejected, 1.0, 0.0]], columns=list(CAPTION_COLUMNS))
    return HomologousPairs(
        preferences,
        images={"a": random_images(model.generated, 2)},
        captions={"a": caption},
        seen={"a": random_images(model.seen, 1)[0]},
        seed=0,
        iteration=1,
        noise=partial(model.noise, settings=TRAINING),
    )


def random_images(form: ImageForm, count: int) -> np.ndarray:
    """Images of a form; codes are the first 64, which every codebook has."""
    most = 64 if form.kind == "codes" else 256
    return np.random.default_rng(0).integers(0, most, (count, *form.shape)).astype(form.dtype)


def gradients(
    model: UnifiedModel,
    pairs: HomologousPairs,
    reference: ReferenceTable,
    *,
    training: Training,
    accelerator: Accelerator,
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


def update(model: UnifiedModel, *, training: Training) -> list[torch.optim.AdamW]:
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
