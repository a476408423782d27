"""What the benchmarks have a checkpoint draw: the prompts of their own files, in an order that never changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hermesflow.config.benchmarks import DRAWN, Benchmarks
from hermesflow.core.errors import ConfigError, DataError
from hermesflow.core.files import Layout, digest_of
from hermesflow.data.pairs import read_pairs
from hermesflow.evaluation.benchmarks import dpg, fidelity, geneval, geneval2
from hermesflow.evaluation.benchmarks.reference_origin import check_reference
from hermesflow.evaluation.worlds.generation import Request

TOGETHER = 250  # images of a batch, whole prompts: what is kept at once, and dealt to shards
_ORIGINS = {
    "geneval.prompts": "Take prompts/evaluation_metadata.jsonl of github.com/djghosh13/geneval",
    "dpg.prompts": "Take dpg_bench/dpg_bench.csv of github.com/TencentQQGYLab/ELLA",
    "geneval2.prompts": f"Take geneval2_data.jsonl of github.com/facebookresearch/GenEval2 ({geneval2.TERMS})",
    "coco.captions": "Write image_id and one caption of 30,000 images of val2014 as CSV (docs/dpg-and-coco.md)",
    "coco.reference": "Make it of the list's real images by `hermesflow fid-reference` (docs/dpg-and-coco.md)",
}


@dataclass(frozen=True)
class Prompts:
    """What one benchmark has drawn."""

    benchmark: str
    ids: tuple[str, ...]
    """One per prompt, unique."""
    texts: tuple[str, ...]
    images: int
    """Of each prompt."""

    @property
    def batch(self) -> int:
        """Prompts drawn together."""
        return max(TOGETHER // self.images, 1)

    @property
    def digest(self) -> str:
        """Of what is drawn: ids alone do not tell texts apart where they are numbers."""
        return digest_of([self.ids, self.texts, self.images])

    def requests(self, ids: list[str]) -> list[Request]:
        """The images of some prompts; the random numbers of each come from benchmark, prompt and number."""
        text_of = dict(zip(self.ids, self.texts, strict=True))
        return [Request(f"{self.benchmark}/{id_}", k, text_of[id_]) for id_ in ids for k in range(self.images)]


def read_prompts(benchmarks: Benchmarks | None, layout: Layout, benchmark: str) -> Prompts:
    """The prompts of a benchmark: from the file its section names, for the gap from the held-out pairs.

    Raises:
        ConfigError: the config has no such benchmark, or images are drawn for none of that name.
        DataError: its file is missing or is not the benchmark's, or COCO's reference is of other images.
    """
    own = getattr(benchmarks, benchmark, None)
    if own is None or benchmark not in DRAWN:
        raise ConfigError(f"--benchmark {benchmark}: the config has no section benchmarks.{benchmark} with images.")
    if benchmark == "geneval":
        lines = geneval.read_metadata(there(own.prompts, "geneval.prompts"))
        return Prompts(benchmark, tuple(map(geneval_id, range(len(lines)))), tuple(m.prompt for m in lines), own.images)
    if benchmark == "dpg":
        dense = dpg.read_prompts(there(own.prompts, "dpg.prompts"))
        return Prompts(benchmark, tuple(p.id for p in dense), tuple(p.text for p in dense), own.images)
    if benchmark == "geneval2":
        composed = geneval2.read_prompts(there(own.prompts, "geneval2.prompts"))
        ids = tuple(map(geneval2.prompt_id, range(len(composed))))
        return Prompts(benchmark, ids, tuple(p.text for p in composed), own.images)
    if benchmark == "coco":
        captions = fidelity.read_captions(there(own.captions, "coco.captions"))
        # now, and not after 30,000 images are drawn
        check_reference(there(own.reference, "coco.reference"), captions, own.inception)
        return Prompts(benchmark, tuple(c.key for c in captions), tuple(c.caption for c in captions), 1)
    pairs = read_pairs(layout.data("gap")).remove_columns("image")
    return Prompts(benchmark, tuple(pairs["id"]), tuple(pairs["caption"]), 1)


def geneval_id(number: int) -> str:
    """The number of a prompt in evaluation_metadata.jsonl, from 0, as GenEval's folders have it."""
    return f"{number:05d}"


def there(path: str, key: str) -> Path:
    """A file that a section names.

    Raises:
        DataError: it is not there; says where to get it.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file (benchmarks.{key}). {_ORIGINS[key]}, or correct the key.")
    return Path(path)
