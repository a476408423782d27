"""Columns of Tables 1 to 5: those of the small worlds, and those of real benchmarks.

A table has the columns of one of the two. Scales convert our statistics to the paper's units, and `quoted` names the
paper's figures that stand in a column below the measured ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hermesflow.evaluation.benchmark import ABLATION, FIDELITY, GENERATION, UNDERSTANDING, Benchmark, Column
from hermesflow.evaluation.metrics import GENEVAL_KINDS, OWN

_POPE = Column("pope", "POPE", "pope/accuracy", 100.0, quoted="pope")
_MME = Column("mme", "MME", "mme/total", quoted="mme")
_MMMU = Column("mmmu", "MMMU", None, quoted="mmmu")
OWN_PROMPTS = Column("geneval_own", "GenEval's own prompts", f"geneval/{OWN}overall", digits=2)
"""Of the prompts that a small world can be asked word by word; only where there are any."""
WORLD = {
    UNDERSTANDING: (
        _POPE,
        _MME,
        Column("cider", "CIDEr", "cider", 100.0, quoted="cider"),
        Column("vqa", "VQA", "vqa", 100.0, quoted="vqa"),
        Column("gqa", "GQA", "gqa", 100.0, quoted="gqa"),
        _MMMU,
    ),
    GENERATION: (
        *(
            Column(kind, kind.replace("_", " ").capitalize(), f"geneval/{kind}", digits=2, quoted=kind)
            for kind in (*GENEVAL_KINDS, "overall")
        ),
        OWN_PROMPTS,
        Column("dpg", "Dense (DPG)", "dpg", 100.0, quoted="dpg"),
    ),
    FIDELITY: (
        Column("fid", "Frechet distance", "fid", digits=2, quoted="fid"),
        Column("clip_score", "Image-text score", "clip_score", digits=2, quoted="clip_score"),
    ),
    ABLATION: (
        _POPE,
        _MME,
        _MMMU,
        Column("geneval", "GenEval", "geneval/overall", digits=3, quoted="geneval"),
        replace(OWN_PROMPTS, digits=3),
        Column("dpg", "DPG", "dpg", 100.0, quoted="dpg"),
        Column("gap_paper", "Gap, paper's protocol", "gap/paper/gap", digits=3),
        Column("gap_same_judge", "Gap, same judge", "gap/same-judge/gap", digits=3),
    ),
}
"""Counterparts in a small world, all from a checkpoint's own evaluation."""
_HELD_OUT = (
    Column("cider", "CIDEr, held-out pairs", "cider", 100.0),
    Column("vqa", "VQA, held-out pairs", "vqa", 100.0),
)
REAL = {
    UNDERSTANDING: _HELD_OUT,
    ABLATION: (Column("gap_self", "Gap, own answers", "gap/self/gap", digits=3), *_HELD_OUT),
}
"""What a checkpoint's own evaluation measures on real pairs; it stands behind the columns of benchmarks."""
GAP_SIDES = tuple(
    Column(side, side.capitalize(), None, digits=3, quoted=side) for side in ("understanding", "generation", "gap")
)
"""Of Table 4; their statistics are named by protocol."""
BOTH_RIGHT = Column("both_right", "Both right", None, digits=3)
"""Of Table 4, where it was measured: questions answered right about the real image and on the generated one."""


def columns_of(table: str, benchmarks: Sequence[Benchmark], *, real: bool) -> tuple[Column, ...]:
    """Returns the measured columns of one of the paper's tables.

    Args:
        table: its name.
        benchmarks: of `config.benchmarks.reported`.
        real: whether images are real ones; in a small world its own evaluation stands for the paper's benchmarks.
    """
    columns = [column for one in benchmarks if real or not one.paper for column in one.columns_of(table)]
    return (*columns, *REAL.get(table, ())) if real else (*WORLD.get(table, ()), *columns)
