"""CIDEr on Flickr30k through lmms-eval: all images, as Show-o has it, and Karpathy's 1,000 test images.

Source: Young et al. 2014 (Flickr30k); Karpathy and Fei-Fei 2015 (the split).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermesflow.core.errors import DataError
from hermesflow.evaluation.benchmark import UNDERSTANDING, Column, LmmsBenchmark, Option, Task

if TYPE_CHECKING:
    from hermesflow.evaluation.lmms.run import Row, Run, Sample

PROTOCOLS = {"flickr30k_test": "full", "flickr30k_karpathy": "karpathy"}
"""Task to the name of its protocol in metrics."""


def rows(run: Run, task: str, samples: Sequence[Sample]) -> list[Row]:
    """CIDEr of every caption of a task."""
    stem = f"flickr30k/{PROTOCOLS[task]}"
    scores = cider_scores([one["flickr_CIDEr"] for one in samples])
    return [(f"{stem}/cider", stem, run.image(task, s), scores[s["flickr_CIDEr"]["image_id"]], 1) for s in samples]


def cider_scores(samples: Sequence[Sample]) -> dict[int, float]:
    """CIDEr of each caption by `image_id`; document frequencies are those of all references given.

    Args:
        samples: `image_id`, `pred` (the caption) and `answer` (its references) of each picture.

    Source: Vedantam et al. 2015 (CIDEr-D); pycocoevalcap's scorer and its Java tokenizer, as in lmms-eval.
    """
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = {("said", s["image_id"]): [s["pred"]] for s in samples}
    texts |= {("true", s["image_id"]): s["answer"] for s in samples}
    words = PTBTokenizer().tokenize({key: [{"caption": text} for text in group] for key, group in texts.items()})
    captions, truth = ({s["image_id"]: words[side, s["image_id"]] for s in samples} for side in ("said", "true"))
    _, scores = Cider().compute_score(truth, captions)
    return {key: float(score) for key, score in zip(truth, scores, strict=True)}


def read_answer(answer: str) -> str:
    r"""An answer on one line, which Flickr30k's scorers want.

    pycocoevalcap hands its captions to Java as lines and takes only `\n` out of them before: any other end of a line
    (a carriage return, U+2028) would shift all captions behind it by one picture, without an error.
    """
    return " ".join(answer.splitlines())


def target(sample: Sample) -> Any:
    """The references: the task's own `target` is the word `answer`."""
    return sample["flickr_CIDEr"]["answer"]


def environment(settings: Any) -> Mapping[str, str]:
    """Where the task of Karpathy's split finds it.

    Raises:
        DataError: it is asked for and missing.
    """
    from hermesflow.evaluation.lmms.karpathy import SPLITS

    if not settings.karpathy:
        return {}
    path = Path(settings.karpathy)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file (benchmarks.understanding.karpathy). Take dataset_flickr30k.json of Karpathy's "
            "caption_datasets.zip, or set the key to null to leave his split out."
        )
    return {SPLITS: str(path.absolute())}


BENCHMARK = LmmsBenchmark(
    name="flickr30k",
    order=30,
    paper=True,
    tasks={
        "flickr30k_test": Task(31_783, 31_783, 64),
        "flickr30k_karpathy": Task(1_000, 1_000, 64, option="karpathy"),
    },
    rows=rows,
    read_answer=read_answer,
    target=target,
    printed={f"flickr30k/{name}/cider": (task, "flickr_CIDEr,none") for task, name in PROTOCOLS.items()},
    options=(
        Option(
            name="karpathy",
            type=str | None,
            default=None,
            meaning="Karpathy's dataset_flickr30k.json, for Flickr30k's 1,000 test images; None leaves that protocol "
            "out.",
        ),
    ),
    environment=environment,
    java="Flickr30k's scorer (pycocoevalcap)",
    columns={
        UNDERSTANDING: (
            Column("flickr30k", "Flickr30k CIDEr, all images", "flickr30k/full/cider", 100.0, quoted="cider"),
            Column("flickr30k_karpathy", "Flickr30k CIDEr, Karpathy 1K", "flickr30k/karpathy/cider", 100.0),
        ),
    },
)
