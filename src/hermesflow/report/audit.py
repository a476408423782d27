"""Tables that say how far the figures can be trusted: judge, score agreement, dropped pairs, records set aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from hermesflow.report.formatting import Table, plain


def nested_rows(tree: Mapping[str, Any], *, levels: tuple[str, ...]) -> pd.DataFrame:
    """A tree of numbers as a table: inner dictionaries become rows, their leaves columns.

    Args:
        tree: nested dictionaries with leaves of numbers, text or nothing (null).
        levels: names of the key columns, outermost first; deeper keys are joined with "/" into the last.
    """
    rows: list[dict[str, Any]] = []

    def walk(node: Mapping[str, Any], path: tuple[str, ...]) -> None:
        leaves = {k: v for k, v in node.items() if not isinstance(v, Mapping)}
        if leaves:
            keys = (*path[: len(levels) - 1], "/".join(path[len(levels) - 1 :]))
            rows.append({**dict(zip(levels, (*keys, "", ""), strict=False)), **leaves})
        for key, value in node.items():
            if isinstance(value, Mapping):
                walk(value, (*path, key))

    walk(tree, ())
    frame = pd.DataFrame(rows)
    keys = [level for level in levels if level in frame and (frame[level] != "").any()]
    return frame[[*keys, *(c for c in frame.columns if c not in levels)]]


def agreement_table(by_seed: Mapping[int, Mapping[str, Any]]) -> Table:
    """Rank agreement of every preference score with the independent judge, per seed.

    Args:
        by_seed: run seed to the content of `scores/agreement.json` of base.
    """
    frames = []
    for seed, tree in by_seed.items():
        frame = nested_rows({k: v for k, v in tree.items() if isinstance(v, Mapping)}, levels=("side", "measure"))
        frame.insert(0, "seed", seed)
        frames.append(frame)
    values = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return _table(
        "table_agreement",
        "Agreement of the preference scores with the independent judge",
        values,
        "Within the candidates of one pair: Kendall's tau-b of score and judge (1: the same order, 0: none), averaged "
        "over the pairs where neither is constant; best_beats_worst: how often the judge, too, puts the best-scored "
        "before the worst-scored; truth_*: the judge's mean verdict on the best-scored, on all, on the worst-scored.",
    )


def judge_table(tree: Mapping[str, Any], reading: str) -> Table:
    """The judge's own accuracy: on real renders and on reconstructions.

    Args:
        tree: the content of `judge/judge.json`.
        reading: what it reads pixels by (`World.reading`).
    """
    return _table(
        "table_judge",
        "Accuracy of the independent judge",
        nested_rows(tree, levels=("read from", "kind")),
        f"The judge reads pixels by {reading}, without a model. On reconstructions of the image tokenizer "
        "agreement means: read as the original is read; it caps every generation figure. Wrong captions are the true "
        "ones with one fact changed.",
    )


def preferences_table(counts: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Table:
    """Preference pairs kept and dropped, with the reasons, per checkpoint and seed.

    Args:
        counts: checkpoint to run seed to the content of `preferences/counts.json`.
    """
    rows: list[dict[str, Any]] = []
    any_alone = any("alone" in tree["homologous"] for by_seed in counts.values() for tree in by_seed.values())
    for checkpoint, by_seed in counts.items():
        for seed, tree in by_seed.items():
            incomplete = tree["homologous"]["dropped"]
            for side in ("captions", "images"):
                counted = tree[side]
                dropped = {f"dropped: {reason}": n for reason, n in {**counted["dropped"], **incomplete[side]}.items()}
                cut = {f"cut at the limit: {what}": n for what, n in counted.get("cut", {}).items()}
                rows.append(
                    {
                        **{"checkpoint": checkpoint, "seed": seed, "side": side},
                        **{k: counted[k] for k in ("ids", "candidates", "updated", "kept")},
                        "trained on": tree["homologous"]["kept"] + tree["homologous"].get("alone", {}).get(side, 0),
                        **dropped,
                        **cut,
                    }
                )
    values = pd.DataFrame(rows)
    reasons = sorted(c for c in values.columns if c.startswith(("dropped: ", "cut at the limit: ")))
    values = values[[c for c in values.columns if c not in reasons] + reasons]
    values[reasons] = values[reasons].fillna(0).astype(int)
    return _table(
        "table_preferences",
        "Preference pairs: kept, dropped and why",
        values,
        "ids: homologous pairs sampled for; updated: made from the parent's pair by Eq. 10; trained on: ids with a "
        "pair of captions and a pair of images (`other side missing` counts those that had only one)."
        + " With preferences.pairs `any` a pair of one side alone is trained on too." * any_alone
        + " Captions cut at the limit of tokens are trained without an end."
        * any(c.startswith("cut") for c in reasons),
    )


def rejected_table(rejected: pd.DataFrame, remark: str = "") -> Table:
    """Records of the data set aside when they were read, with the reason.

    Args:
        rejected: of `data/rejected.csv`.
        remark: what else there is to say of the data (`data_note`).
    """
    note = f"{len(rejected)} records were set aside; nothing here was trained or evaluated on."
    return _table("table_rejected", "Records set aside", rejected, f"{note} {remark}".rstrip())


def data_note(selection: Mapping[str, Any], questions: pd.DataFrame, cut: Mapping[str, int]) -> str:
    """What became of the records of real pairs, of their images, texts and questions, in words.

    Args:
        selection: the content of `data/selection.json`.
        questions: of `data/questions.csv`.
        cut: split to the number of its captions that have more tokens than the model takes.
    """
    records, changes = selection["records"], selection["changes"]
    total = questions.loc[questions["outcome"] == "kept", "questions"].sum()
    rows = questions[["from", "outcome", "questions"]].itertuples(index=False)
    dropped = [f"{n:,} of the {origin}'s, {outcome}" for origin, outcome, n in rows if outcome != "kept"]
    parts = [
        f"Of {records['read']:,} records {records['drawn']:,} were drawn and {records['not needed']:,} not needed.",
        f"Of those drawn: {_listed(f'{n:,} {what}' for what, n in sorted(changes.items()))}.",
        f"Questions: {total:,} kept; dropped: {_listed(dropped)}.",
    ]
    longer = _listed(f"{n:,} in {split}" for split, n in cut.items() if n)
    parts.append(f"Captions longer than the model takes, cut where it draws from them: {longer}.")
    return " ".join(parts)


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(texts) or "none"


def statistics_table(summary: pd.DataFrame) -> Table:
    """Every statistic of every checkpoint, as `statistics.summarise` gives it."""
    return _table(
        "statistics",
        "All statistics",
        summary,
        "value with its interval; delta: difference from the checkpoint in `against`, with the interval of the paired "
        "difference; items: images or prompts that were resampled.",
    )


def _table(name: str, title: str, values: pd.DataFrame, note: str) -> Table:
    floats = values.select_dtypes("float").columns
    values = values.copy()
    values[floats] = values[floats].round(6) + 0.0
    return Table(name, title, values, plain(values, 3), (note,))
