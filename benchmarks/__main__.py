"""Time the hot paths on random weights of a config's sizes and write results/bench/latest.json.

    python -m benchmarks --config config/micro.yaml

`together` is how the stages work; `one by one` does the same a row at a time, as the released code does, without
sharing what rows about one image or prompt have in common.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hermesflow.artifacts import write_json
from hermesflow.config import Config, load_config
from hermesflow.data.microworld import make_pairs
from hermesflow.models.building import new_model
from hermesflow.models.showo import ShowO
from hermesflow.sampling import sample_images, sample_texts
from hermesflow.scoring import free_answers
from hermesflow.seeding import generator

PAIRS = 8


def main() -> None:
    """Time everything and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("config/micro.yaml"))
    parser.add_argument("--output", type=Path, default=Path("results/bench/latest.json"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    torch.set_num_threads(config.runtime.shard_threads)
    seconds = {name: timed(work, arguments.repeats) for name, work in works(config).items()}
    for name, value in seconds.items():
        print(f"{name:28} {value * 1000:10.1f} ms")
    write_json(arguments.output, {"config": config.name, "pairs": PAIRS, "seconds": seconds})


def works(config: Config) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each works on PAIRS pairs with all their candidates and questions."""
    model = new_model(config, seed=0).eval()
    pairs = list(make_pairs("pairs", PAIRS, config=config.data))
    codes = torch.randint(config.codebook_size, (PAIRS, config.num_image_tokens), generator=generator("bench"))
    captions = [pair["caption"] for pair in pairs]
    questions = [(i, q["question"]) for i, pair in enumerate(pairs) for q in pair["questions"]]
    decodings, images = config.sampling.captions.decodings, config.sampling.images
    longest = config.sampling.captions.max_new_tokens

    def draw(prompts: list[str]) -> Tensor:
        rows = [generator("bench", k) for k in range(len(prompts))]
        return sample_images(model, prompts, settings=images, generators=rows)

    def write(owners: list[int], chosen: list[int]) -> list[str]:
        # end tokens come at random from random weights; the seeds are the same on both paths
        rows = [generator("bench", i, k) for i, k in zip(owners, chosen, strict=True)]
        prompts = [model.caption_prompt] * len(owners)
        settings = [decodings[k] for k in chosen]
        about = torch.tensor(owners)
        return sample_texts(model, codes, about, prompts, decodings=settings, max_new_tokens=longest, generators=rows)

    def answer(asked: list[tuple[int, str]]) -> list[str]:
        about = torch.tensor([i for i, _ in asked])
        words = [text for _, text in asked]
        return free_answers(model, codes, about, words, max_answer_tokens=config.scoring.max_answer_tokens)

    rows = [(i, k) for i in range(PAIRS) for k in range(len(decodings))]
    drawn = [caption for caption in captions for _ in range(images.n)]
    return {
        "images together": lambda: draw(drawn),
        "images one by one": lambda: [draw([caption]) for caption in drawn],
        "captions together": lambda: write([i for i, _ in rows], [k for _, k in rows]),
        "captions one by one": lambda: [write([i], [k]) for i, k in rows],
        "answers together": lambda: answer(questions),
        "answers one by one": lambda: [answer([one]) for one in questions],
        "pair-dpo step": lambda: step(model, captions, codes),
    }


def step(model: ShowO, captions: list[str], codes: Tensor) -> None:
    """Forward and backward of both skills, chosen and rejected, reference log-probs being stored."""
    masked = torch.rand(codes.shape, generator=generator("bench", "mask")) < 0.5
    texts = model.text_logps(
        codes, [model.caption_prompt] * (2 * PAIRS), captions * 2, owners=torch.arange(PAIRS).repeat(2)
    )
    images = model.image_logps(captions * 2, codes.repeat(2, 1), masked.repeat(2, 1))
    (texts.sum() + images.sum()).backward()
    model.zero_grad()


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of a few runs after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
