"""Section `data` of a config file for pairs of real images: JourneyDB, and a user's own.

Which class reads the section is decided by its key `source`, so that keys of another source are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hermesflow.config.sections import Count, Data, Positive, Share
from hermesflow.core.section import AnyOrder, Revision, Source, section


@section
class QuestionModels:
    """Questions made from captions by one model and checked against the captions by another (TIFA)."""

    generator: str | Source
    """Writes questions from a caption (official: tifa-benchmark/llama2_tifa_question_generation): a folder or a source
    with its tokenizer and safetensors weights."""
    format: Literal["tifa", "json"]
    """`tifa`: prompt and lines of that model. `json`: a chat prompt and a JSON list, for any instruct model."""
    checker: str | Source
    """Answers from the caption alone (official: allenai/unifiedqa-v2-t5-large-1363200); likewise."""
    batch_captions: Positive
    """Captions per forward pass; results are kept after each batch, so a killed run goes on from there."""
    beams: Positive = 5
    """Beams of the generator (official 5)."""
    max_new_tokens: Positive = 512
    """At most so many tokens of questions per caption."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Number type of the generator's weights (official float16); the checker is float32, as official."""
    min_f1: Share = 0.6
    """A free answer from the caption must share words with the answer: F1 above this (official 0.6)."""


@section
class RealData:
    """What every source of pairs of real images says; descriptions, because docstrings are not inherited."""

    source: str
    path: str
    selection: Annotated[
        str | None,
        Field(description="`selection.json` of another site: take the same ids and check every image's sha256."),
    ] = None
    questions: Annotated[
        QuestionModels | None,
        Field(description="Models that add questions to the data's own; needed where it has none. See its own table."),
    ] = None
    seed: Annotated[
        int,
        Field(description="Seed of the order and of the splits; independent of the run seeds: all see the same data."),
    ]
    image_size: Annotated[
        Positive,
        Field(
            description="Pixels per side: the shorter side is resized to this, then the middle is cut out (official)."
        ),
    ]
    background: Annotated[
        str | None,
        Field(pattern="^#[0-9a-f]{6}$", description="Colour behind transparent pixels, as `#808080`; None is white."),
    ] = None
    base_pairs: Annotated[Count, Field(description="Pairs to train a base model on; 0 where it has released weights.")]
    pairs: Annotated[Positive, Field(description="Homologous pairs that self-play samples for (paper: 5,000).")]
    gap_pairs: Annotated[Positive, Field(description="Held-out pairs the gap is measured on.")]


@section
class JourneyDb(RealData):
    """Pairs of JourneyDB's training set, chosen by seed."""

    source: Literal["journeydb"]
    """`journeydb`: captions, questions and images of JourneyDB."""
    path: str
    """Folder of a local copy (the one that holds `data/train`), or the hub id `JourneyDB/JourneyDB` (gated)."""
    revision: Revision | None = None
    """Commit on the hub; nothing is fetched from there without one, and `hermesflow fetch --pin` prints it."""
    shards: Annotated[tuple[Annotated[str, Field(pattern="^[0-9]{3}$")], ...], AnyOrder] = ()
    """Image shards to choose from (`000` to `199`), all if empty. Each is many gigabytes: 5,000 ids out of all 200
    take all 200 downloads."""


@section
class Folder(RealData):
    """A user's own images and captions (docs/data.md)."""

    source: Literal["folder"]
    """`folder`: images with captions, webdataset tars, parquet files, a saved dataset, or one on the hub."""
    path: str
    """The folder (what it holds is seen by its files), or the hub id of a dataset."""
    split: str = "train"
    """Split of a dataset on the hub."""
    revision: Revision | None = None
    """Commit on the hub; nothing is fetched from there without one, and `hermesflow fetch --pin` prints it."""


AnyData = Annotated[Data | JourneyDb | Folder, Field(discriminator="source")]
