"""Section `benchmarks` of a config file: the real benchmarks of Tables 1 to 4, and GenEval 2, each left out at will."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from hermesflow.config.judges import AnyJudge
from hermesflow.config.sections import Positive, Source, section

DrawnBenchmark = Literal["geneval", "dpg", "coco", "gap", "geneval2"]
Column = Literal["pope", "mme", "flickr30k", "vqav2", "gqa", "mmmu"]
DRAWN: tuple[DrawnBenchmark, ...] = get_args(DrawnBenchmark)
"""Benchmarks whose images a checkpoint draws; the names of their sections."""
COLUMNS: tuple[Column, ...] = get_args(Column)
"""Columns of Table 1 that lmms-eval makes, all by the section `understanding`."""


@section
class GenEval:
    """GenEval: 553 prompts of six kinds, a detector and a CLIP as graders (docs/geneval.md)."""

    prompts: str
    """The original's prompts/evaluation_metadata.jsonl (github.com/djghosh13/geneval)."""
    images: Positive = 4
    """Images per prompt (GenEval: 4)."""
    detector: str | Source
    """Mask2Former over COCO's objects (facebook/mask2former-swin-small-coco-instance): a folder or a source with
    configuration, processor and safetensors weights."""
    clip: str | Source
    """CLIP that tells colours (GenEval: openai/clip-vit-large-patch14); likewise."""


@section
class DpgBench:
    """DPG-Bench: 1,065 long prompts with trees of questions, a VQA model as judge (docs/dpg-and-coco.md)."""

    prompts: str
    """The original's dpg_bench/dpg_bench.csv (github.com/TencentQQGYLab/ELLA)."""
    images: Positive = 4
    """Images per prompt (DPG-Bench: 4, its grid of 2 x 2)."""
    judge: str | Source
    """VQA model (BLIP, ViLT) or chat model that sees images (Qwen-VL, LLaVA): a folder or a source. The original's
    mPLUG is not to be had for transformers, so figures compare by one judge alone."""


@section
class Coco:
    """Frechet distance to COCO's images and CLIP score, one image for each caption of a fixed list."""

    captions: str
    """CSV or JSON list of image_id and caption, one caption for each image (30,000 of val2014)."""
    reference: str
    """npz with `mu` and `sigma` of the real images of the list, scaled as docs/dpg-and-coco.md says."""
    inception: Source
    """Inception of 2015: one file, pytorch-fid's pt_inception-2015-12-05-6726825d.pth or its tensors as safetensors."""
    clip: str | Source
    """CLIP of the score: a folder or a source; scores of different ones cannot be compared."""


@section
class Understanding:
    """Columns of Table 1 through lmms-eval, which has an environment of its own (`make lmms`, docs/lmms-eval.md)."""

    columns: Annotated[tuple[Column, ...], Field(min_length=1)] = COLUMNS
    """Columns to fill; each is a job per checkpoint."""
    batch_size: Positive
    """Pictures answered about together."""
    python: str = ".venv-lmms/bin/python"
    """Interpreter of the environment with lmms-eval."""
    cache: str | None = None
    """Folder of the hub's client (HF_HOME) for the data sets; None leaves it where the environment says."""
    tasks: str | None = None
    """Folder of local tasks that take the place of the shipped ones, named after them with `_local` behind; for places
    without a network."""
    karpathy: str | None = None
    """Karpathy's dataset_flickr30k.json, for Flickr30k's 1,000 test images; None leaves that protocol out."""
    vqav2_submission: bool = True
    """Answer VQAv2's test split too, for the file that its server takes: 447,793 questions about 81,434 pictures for
    each checkpoint, twice as many as val has, and no figure of any table comes of them."""


@section
class Gap:
    """Table 4 with a judge of real images, by the paper's protocol and with the same judge on both sides."""

    judge: AnyJudge
    """Who answers questions about images. See its own table below."""


@section
class GenEval2:
    """GenEval 2, an extra that the paper has not: composed prompts and Soft-TIFA (docs/geneval2.md).

    Its data is licensed for non-commercial use alone (CC BY-NC 4.0); the licence is printed when it is read.
    """

    prompts: str
    """The original's geneval2_data.jsonl (github.com/facebookresearch/GenEval2)."""
    images: Positive = 1
    """Images per prompt (GenEval 2: 1); of several, the mean counts."""
    judge: str | Source
    """VQA model whose probabilities count (GenEval 2: Qwen/Qwen3-VL-8B-Instruct): a folder or a source; figures by
    different ones cannot be compared."""


@section
class Benchmarks:
    """Real benchmarks of every checkpoint, beside its own evaluation; each needs its section."""

    geneval: GenEval | None = None
    """Table 2. See its own table below."""
    dpg: DpgBench | None = None
    """Table 2. See its own table below."""
    coco: Coco | None = None
    """Table 3. See its own table below."""
    understanding: Understanding | None = None
    """Table 1. See its own table below."""
    gap: Gap | None = None
    """Table 4. See its own table below."""
    geneval2: GenEval2 | None = None
    """A table of its own, beside the paper's. See its own table below."""

    @property
    def drawn(self) -> tuple[DrawnBenchmark, ...]:
        """Benchmarks that images are drawn for, in the order of DRAWN."""
        return tuple(name for name in DRAWN if getattr(self, name) is not None)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns that lmms-eval makes, in the order of COLUMNS."""
        wanted = self.understanding.columns if self.understanding else ()
        return tuple(name for name in COLUMNS if name in wanted)


def shards_of(benchmark: str, shards: int) -> int:
    """Shards a benchmark's images are drawn in: COCO's are 30,000, those of the others a few thousand."""
    return shards if benchmark == "coco" else 1


def section_of(benchmark: str) -> str:
    """Name of the section that a benchmark's settings are in."""
    return "understanding" if benchmark in COLUMNS else benchmark
