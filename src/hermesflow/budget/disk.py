"""Bytes and files that the rules leave, from the formats of their artifacts.

Image tokens are uint16, weights float32, tables parquet. Texts and ids are taken at `TOKEN_BYTES` and `ID_BYTES`, which
is generous, and images of pairs at their raw size, which their PNG files do not exceed but for a header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hermesflow.budget.benchmarks import drawings, tasks_of
from hermesflow.budget.family import costs_of
from hermesflow.config.experiment import Config, has_judge
from hermesflow.config.tree import training_of
from hermesflow.data.worlds.world import world_of
from hermesflow.evaluation.registry import measured
from hermesflow.models.lengths import Lengths
from hermesflow.stages.data import split_counts

ID_BYTES = 24
TOKEN_BYTES = 8
NUMBER = 8
"""Bytes of a score or a count in a table."""
STEP_BYTES = 400
"""A line of a training's history.csv."""
HEADER = 4096
"""Of each file, with its manifest."""
_REPORT_BYTES = 5_000_000  # some thirty tables and five figures
_ANSWER_BYTES = 160
SAMPLE_BYTES = 2000
"""A question in lmms-eval's files: its record without the picture, the answer and the settings."""
OUTPUTS = {
    "data": 7,
    "tokenizer": 4,
    "encode": 10,
    "judge": 1,
    "clip": 4,
    "base": 5,
    "sample": 3,
    "gather_candidates": 4,
    "score": 2,
    "gather_scores": 3,
    "agreement": 1,
    "prefer": 7,
    "reference": 1,
    "train": 5,
    "evaluate": 11,
    "draw": 2,
    "gather_drawn": 2,
    "grade": 5,
    "understand": 6,
    "report": 33,
}
"""Files of one job of each rule, as Snakemake lists them (`tests/budget/test_budget_disk.py` asks it)."""
ADAPTER_OUTPUTS = 2
REAL_OUTPUTS = 2
"""Of stage `data`, where images are real."""
TABLE_OUTPUTS = 3
"""Of stage `report`, for each benchmark with a table of its own."""
JOB_FILES = 2
"""Log and benchmark of a job."""


def files_of(config: Config, rule: str, jobs: int) -> int:
    """Files that all jobs of a rule leave."""
    adapters = ADAPTER_OUTPUTS if rule == "train" and config.training.lora else 0
    real = REAL_OUTPUTS if rule == "data" and not has_judge(config) else 0
    tables = [one.table for one in measured(config.benchmarks) if one.table]
    extra = TABLE_OUTPUTS * len(tables) if rule == "report" else 0
    return jobs * (OUTPUTS[rule] + adapters + real + extra + JOB_FILES)


def token_store(pairs: int, images: int, tokens: int) -> int:
    """Image tokens and their index: `core.images.write_images`."""
    return pairs * (images * tokens * 2 + ID_BYTES) + HEADER


def split_sizes(config: Config) -> dict[str, int]:
    """Pairs of every split, with those that a world has beside what the config asks for."""
    published = len(world_of(config.data).prompts()) if has_judge(config) else 0
    counts = split_counts(config)
    return counts | {"prompts": counts["prompts"] + published}


def disk_of(
    config: Config,
    rule: str,
    checkpoint: str | None,
    decoder: Any,
    lengths: Lengths,
    benchmark: str | None = None,
) -> int:
    """Bytes that one checkpoint's jobs of a rule leave for one seed; of all shards where it is scattered."""
    pairs = config.data.pairs
    model = 4 * decoder.parameters + HEADER
    if rule in ("sample", "draw"):
        return 0  # see `transient_bytes`
    if rule == "gather_candidates":
        return candidates_bytes(config, 1)
    if rule in ("score", "gather_scores"):
        candidates = len(config.sampling.captions.decodings) + config.sampling.images.n
        return pairs * candidates * (ID_BYTES + 4 * NUMBER) + HEADER
    if rule in ("reference", "train"):
        assert checkpoint is not None
        steps = training_of(config, checkpoint).steps
        if rule == "reference":
            return steps * config.training.batch_size * (ID_BYTES + 5 * NUMBER) + HEADER
        lora = config.training.lora
        return model + STEP_BYTES * steps + (4 * decoder.adapter_parameters(lora) if lora else 0)
    if rule in ("gather_drawn", "grade", "understand"):
        assert benchmark is not None
        return _benchmark(config, rule, benchmark)
    sizes = {
        "data": _pairs(config, lengths),
        "tokenizer": costs_of(config).saved_bytes(config.image_tokenizer) + HEADER,
        "encode": sum(token_store(split_sizes(config)[s], 1, config.num_image_tokens) for s in (*_ENCODED, "base")),
        "base": model,
        "prefer": _preferences(config),
        "evaluate": _evaluation(config, lengths),
        "report": _REPORT_BYTES,
    }
    return sizes.get(rule, HEADER)


def transient_bytes(config: Config, rule: str, decoder: Any) -> int:
    """Bytes that are there while a rule runs: shards until they are gathered, states of a training."""
    if rule == "sample":
        return candidates_bytes(config, config.runtime.shards)
    if rule == "draw":
        return 2 * sum(_generated(config, name) for name in drawings(config))  # batches and the shards made of them
    return state_bytes(config, decoder) if rule == "train" else 0


def state_bytes(config: Config, decoder: Any) -> int:
    """What a training keeps on disk while it runs: two states, for the older goes when the newer is whole."""
    lora = config.training.lora
    adapters = decoder.adapter_parameters(lora) if lora else 0
    return 2 * 4 * (decoder.parameters + adapters + 2 * (adapters or decoder.parameters))


_ENCODED: Sequence[str] = ("base", "pairs", "gap", "understanding")


def candidates_bytes(config: Config, files: int) -> int:
    """Candidates of all pairs in so many stores."""
    captions = config.sampling.captions
    text = len(captions.decodings) * (captions.max_new_tokens * TOKEN_BYTES + ID_BYTES + NUMBER)
    images = token_store(config.data.pairs, config.sampling.images.n, config.num_image_tokens)
    return config.data.pairs * text + images + 2 * files * HEADER


def _pairs(config: Config, lengths: Lengths) -> int:
    words = config.language_model.max_text_tokens * TOKEN_BYTES * (1 + 2 * lengths.questions)
    return sum(split_sizes(config).values()) * (3 * config.data.image_size**2 + words + ID_BYTES) + HEADER


def _benchmark(config: Config, rule: str, benchmark: str) -> int:
    if rule == "understand":
        return sum(SAMPLE_BYTES * task.questions + HEADER for task in tasks_of(config, (benchmark,)))
    return _generated(config, benchmark) if rule == "gather_drawn" else _graded(config, benchmark)


def _generated(config: Config, benchmark: str) -> int:
    one = drawings(config)[benchmark]
    return token_store(one.prompts, one.images, config.num_image_tokens)


def _graded(config: Config, benchmark: str) -> int:
    return _ANSWER_BYTES * 2 * drawings(config)[benchmark].total + HEADER


def _preferences(config: Config) -> int:
    """Chosen and rejected captions, alone and joined with the images' scores, and the images."""
    text = 2 * config.sampling.captions.max_new_tokens * TOKEN_BYTES
    tables = 2 * (config.data.pairs * (text + ID_BYTES + 4 * NUMBER) + HEADER)
    return tables + token_store(config.data.pairs, 2, config.num_image_tokens)


def _evaluation(config: Config, lengths: Lengths) -> int:
    sizes, settings = split_sizes(config), config.evaluation
    features = 4 * 64 * (settings.fid_images + sizes["gap"] + sizes["understanding"])
    questions = sizes["gap"] * lengths.questions + sizes["understanding"] * (30 + lengths.questions)
    images = sizes["prompts"] * settings.geneval_images + settings.fid_images
    return features + _ANSWER_BYTES * (2 * questions + 2 * images) + 11 * HEADER
