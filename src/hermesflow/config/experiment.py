"""The whole experiment as one frozen object; functions get the section they need (`hermesflow.config.sections`).

workflow/schemas/config.schema.json is generated from these classes (`python -m hermesflow schema`).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from hermesflow.config.benchmarks import Benchmarks
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
from hermesflow.core.section import AnyOrder

BASE = "base"  # the name of the checkpoint every tree starts from


@section
class Config:
    """Everything one `results/{name}` folder is made from.

    One YAML file holds a whole experiment: `pictures.yaml` (the default), `micro.yaml`, `smoke.yaml` (tiny) or
    `showo.yaml` (the paper's scale, from the released weights of Show-o 1.3B). Unknown keys and wrong types are
    refused. Seeds can be overridden for one run: `snakemake --config seeds=[0,1,2]`. A file with the line
    `extends: pictures.yaml` (from its own folder) holds differences to that file alone, and a `name` of its own:
    mappings are merged, unless they name a `repo`, a `folder` or, by one word, a `source`; lists are replaced, and a
    checkpoint that is `null` is taken away. This table is made by `make dvc`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Name of the results folder, `results/{name}`."""
    seeds: Annotated[tuple[int, ...], AnyOrder]
    """Run seeds; each trains its own base and self-play chain. Their order means nothing."""
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
    """What grows from base, by name. The order of the lines means nothing: tables follow parents, then settings. See
    its own table below."""
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


def has_judge(config: Config) -> bool:
    """Whether the pairs may be of the micro world, whose images an independent judge reads."""
    return not isinstance(config.data, RealData)


def config_schema() -> dict[str, Any]:
    """JSON schema of a config file, generated from the dataclasses."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(Config).json_schema()}


def as_plain(value: Any) -> Any:
    """A section as plain JSON types (for hashing, manifests and params)."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")
