"""The whole experiment as one frozen, validated object.

One YAML file (`config/micro.yaml`, `config/smoke.yaml`, ...) is read once into `Config`; functions get the
section they need (`hermesflow.config.sections`). Unknown keys and wrong types are refused with the file, the key and
the mend. The JSON schema in `workflow/schemas/config.schema.json` is generated from these classes
(`python -m hermesflow schema`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from hermesflow.config.benchmarks import BENCHMARKS, Benchmarks
from hermesflow.config.data import AnyData, RealData
from hermesflow.config.sections import (
    BaseTraining,
    Checkpoint,
    Evaluation,
    ImageTokenizer,
    LanguageModel,
    Preferences,
    Runtime,
    Sampling,
    Scoring,
    TokenizerTraining,
    Training,
    Weights,
    section,
)
from hermesflow.core.errors import ConfigError

BASE = "base"  # the name of the checkpoint every tree starts from


@section
class Config:
    """Everything one `results/{name}` folder is made from."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Name of the results folder, `results/{name}`."""
    seeds: tuple[int, ...]
    """Run seeds; each trains its own base and self-play chain."""
    data: AnyData
    weights: Weights = Weights()
    image_tokenizer: ImageTokenizer
    tokenizer_training: TokenizerTraining | None = None
    language_model: LanguageModel
    base_training: BaseTraining | None = None
    sampling: Sampling
    scoring: Scoring
    preferences: Preferences
    training: Training
    checkpoints: dict[str, Checkpoint]
    evaluation: Evaluation
    benchmarks: Benchmarks | None = None
    """Real benchmarks; none if left out. See its own table below."""
    runtime: Runtime

    @property
    def num_image_tokens(self) -> int:
        """Image tokens per image."""
        side = self.data.image_size // self.image_tokenizer.patch_size
        return (side // 2 ** (len(self.image_tokenizer.encoder_multipliers) - 1)) ** 2

    @property
    def codebook_size(self) -> int:
        """Number of image codes."""
        return 2**self.image_tokenizer.codebook_bits

    def training_of(self, checkpoint: str) -> Training:
        """The training section of one checkpoint: the defaults with its own overrides."""
        own = self.checkpoints[checkpoint]
        keys = ("steps", "learning_rate", "beta", "chosen_nll_weight")
        changed = {key: getattr(own, key) for key in keys if getattr(own, key) is not None}
        return replace(self.training, **changed)

    def reference_of(self, checkpoint: str) -> str:
        """The first checkpoint with the same reference on the same pairs: its log-probs are this one's too."""

        def rests_on(name: str) -> tuple[object, ...]:
            own = self.checkpoints[name]
            return own.parent, own.candidates, self.training_of(name).steps

        return next(name for name in self.checkpoints if rests_on(name) == rests_on(checkpoint))

    def sampled_checkpoints(self) -> tuple[str, ...]:
        """Checkpoints that somebody grows from, base first: the ones to sample from."""
        parents = [c.parent for c in self.checkpoints.values()]
        return tuple(dict.fromkeys([BASE, *parents]))

    def iteration(self, checkpoint: str) -> int:
        """Self-play iterations between base (0) and this checkpoint."""
        return 0 if checkpoint == BASE else 1 + self.iteration(self.checkpoints[checkpoint].parent)

    def generations_after(self, checkpoint: str) -> int:
        """Length of the longest line of checkpoints that grow from this one; 0 where none does."""
        children = [name for name, own in self.checkpoints.items() if own.parent == checkpoint]
        return max((1 + self.generations_after(child) for child in children), default=0)


def has_judge(config: Config) -> bool:
    """Whether the pairs may be of the micro world, whose images an independent judge reads."""
    return not isinstance(config.data, RealData)


def load_config(path: str | Path) -> Config:
    """Read and validate one YAML config.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, unknown parent or a cycle in the tree.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: cannot be read as YAML ({error}). Mend the file or pass another --config."
        ) from error
    try:
        config = _from_plain(raw)
    except ValidationError as error:
        lines = "; ".join(_one(e) for e in error.errors())
        raise ConfigError(f"{path}: {lines}. config/README.md lists every key with its meaning.") from None
    _check_tree(config, path)
    _check_weights(config, path)
    _check_benchmarks(config, path)
    return config


def config_schema() -> dict[str, Any]:
    """JSON schema of a config file, generated from the dataclasses."""
    return TypeAdapter(Config).json_schema()


def as_plain(value: Any) -> Any:
    """A section as plain JSON types (for hashing, manifests and params)."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _from_plain(raw: Any) -> Config:
    # JSON mode: strict types, yet lists fill tuples and 1 fills a float.
    return TypeAdapter(Config).validate_json(json.dumps(raw))


def _one(error: Any) -> str:
    parts = [str(part) for part in error["loc"]]
    if parts[:1] == ["data"]:
        del parts[1:2]  # which source's class refused the key is no part of the key
    if parts[:1] == ["benchmarks"] and parts[2:4] in (["judge", "endpoint"], ["judge", "local"]):
        del parts[3]  # nor is which judge's
    key = ".".join(parts) or "(whole file)"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        if key == "mode" or (parts[:1] == ["checkpoints"] and parts[2:] == ["mode"]):
            return f"unknown key `{key}`: remove it; `mode` is gone, and what `paper` stood for is always done"
        return f"unknown key `{key}`: remove it or correct its spelling"
    if isinstance(error["input"], dict):  # a whole section, which may have a key in the wrong place
        return f"`{key}`: {error['msg']}"
    return f"`{key}`: {error['msg']} (found {error['input']!r})"


def _check_tree(config: Config, path: Path) -> None:
    if BASE in config.checkpoints:
        raise ConfigError(f"{path}: checkpoints.{BASE}: the name `{BASE}` is taken by the base model; rename it.")
    for name, checkpoint in config.checkpoints.items():
        if checkpoint.parent != BASE and checkpoint.parent not in config.checkpoints:
            raise ConfigError(
                f"{path}: checkpoints.{name}.parent: `{checkpoint.parent}` is not a checkpoint; "
                f"use one of {[BASE, *config.checkpoints]}."
            )
        seen = {name}
        while (name := config.checkpoints[name].parent) != BASE:
            if name in seen:
                raise ConfigError(
                    f"{path}: checkpoints.{name}: the tree has a cycle; let one of them grow from {BASE}."
                )
            seen.add(name)


def _check_weights(config: Config, path: Path) -> None:
    pairs = (
        ("image_tokenizer", config.weights.image_tokenizer, "tokenizer_training", config.tokenizer_training),
        ("language_model", config.weights.language_model, "base_training", config.base_training),
    )
    for name, source, section_name, training in pairs:
        if source is None and training is None:
            raise ConfigError(
                f"{path}: `{section_name}` is required where there is no `weights.{name}`; give one of the two."
            )
        if source is not None and training is not None:
            raise ConfigError(
                f"{path}: `{section_name}` trains what `weights.{name}` already brings; remove one of the two."
            )


def _check_benchmarks(config: Config, path: Path) -> None:
    """What each benchmark in the config has to say of its section."""
    for name in config.benchmarks.drawn if config.benchmarks else ():
        if check := BENCHMARKS[name].check:
            try:
                check(getattr(config.benchmarks, name))
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
