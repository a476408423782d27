"""The honest answer: which of the paper's claims hold here, each with its interval, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import pandas as pd

from hermesflow.config.experiment import BASE, Config, as_plain
from hermesflow.config.tree import training_of
from hermesflow.core.errors import ConfigError
from hermesflow.data.worlds.world import world_of
from hermesflow.report.formatting import change, number, with_interval
from hermesflow.report.lookup import SELF, Figures
from hermesflow.report.roles import pair_chain, pair_chains, roles

Verdict = Literal["yes", "no", "open"]
TOLERANCE = 0.01
"""Understanding counts as held if it is not lower by more than this (the project's own bar)."""
VERDICTS = {"yes": "Yes.", "no": "No.", "open": "Not shown."}
PAPER_TRAINING = dict(beta=0.2, chosen_nll_weight=0.0, mask_schedule="cosine", mask_ratios=[0.0, 1.0], stopping=None)
"""What the paper trains with, where a config may well differ."""
PROTOCOL_WORDS = {
    "paper": "by the paper's protocol (the model's answers on real images, the judge's on generated ones)",
    "same-judge": "with the same judge on both sides",
    SELF: "by the model's own answers on real and on generated images",
}


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, tested on the paired difference to base."""

    claim: str
    protocol: str
    base: float
    value: float
    delta: float
    low: float
    high: float
    verdict: Verdict


def verdict_below(low: float, high: float, bound: float) -> Verdict:
    """`yes` if the whole interval is below the bound, `no` if it is all above, `open` if it holds the bound."""
    if high < bound:
        return "yes"
    return "no" if low > bound else "open"


def verdict_above(low: float, high: float, bound: float) -> Verdict:
    """`yes` if the whole interval is above the bound, `no` if it is all below, `open` if it holds the bound."""
    return verdict_below(-high, -low, -bound)


def claims(figures: Figures, checkpoint: str) -> list[Claim]:
    """The paper's claims about one checkpoint against base, by every protocol."""
    tested: list[Claim] = []
    for protocol in figures.protocols():
        for text, side, above, bound in (
            ("the gap narrowed", "gap", False, 0.0),
            ("generation rose", "generation", True, 0.0),
            ("understanding held", "understanding", True, -TOLERANCE),
            ("understanding rose", "understanding", True, 0.0),
        ):
            metric = f"gap/{protocol}/{side}"
            statistic, base = figures.get(checkpoint, metric), figures.get(BASE, metric)
            low, high = statistic["delta_low"], statistic["delta_high"]
            decide = verdict_above if above else verdict_below
            tested.append(
                Claim(
                    claim=text,
                    protocol=protocol,
                    base=_rounded(base["value"]),
                    value=_rounded(statistic["value"]),
                    delta=_rounded(statistic["delta"]),
                    low=_rounded(low),
                    high=_rounded(high),
                    verdict=decide(low, high, bound),
                )
            )
    return tested


def summary_of(summary: pd.DataFrame, config: Config) -> dict[str, Any]:
    """The answer as plain data, for `summary.json`: the checkpoint judged, its claims, seeds and confidence.

    And the differences between arms, where any were taken.

    Raises:
        ConfigError: the config has no Pair-DPO checkpoint that uses all candidates.
    """
    figures = Figures(summary)
    chain = figures.checkpoints_in(pair_chain(config))
    if not chain:
        raise ConfigError(
            f"config `{config.name}`: no entry of `checkpoints` grows from base with objective `pair` and all "
            "candidates, so there is nothing to answer about. Add one, e.g. `pair-1: {parent: base, objective: pair}`."
        )
    facts = {
        "checkpoint": chain[-1],
        "seeds": figures.seeds(chain[-1]),
        "confidence": config.evaluation.confidence,
        "tolerance": TOLERANCE,
        "claims": [asdict(claim) for claim in claims(figures, chain[-1])],
    }
    return facts | ({"between arms": list(between_arms(figures))} if figures.compared else {})


def between_arms(figures: Figures) -> Iterator[dict[str, Any]]:
    """Differences between arms by one protocol, of both skills, their gap and both right: first less second."""
    for checkpoint, other in figures.compared:
        for side in ("generation", "understanding", "gap", "both_right"):
            metric = f"gap/{figures.protocol}/{side}"
            statistic = figures.get(checkpoint, metric, against=other)
            numbers = {end: _rounded(statistic[end]) for end in ("delta", "delta_low", "delta_high")}
            if figures.measured(metric):
                yield {"checkpoint": checkpoint, "against": other, "metric": metric, **numbers}


def answer(summary: pd.DataFrame, config: Config, judge: Mapping[str, Any] | None = None) -> str:
    """The answer as Markdown: the claims one by one, then iterations, ablation and what limits it all.

    Args:
        summary: of `statistics.summarise`.
        config: the experiment.
        judge: the content of `judge/judge.json`; of None nothing is said.
    """
    figures = Figures(summary)
    chain = figures.checkpoints_in(pair_chain(config))
    facts = summary_of(summary, config)
    percent = number(100 * config.evaluation.confidence, 0)
    seeds = facts["seeds"]
    head = (
        f"# Did the gap narrow?\n\nConfig `{config.name}`: `{facts['checkpoint']}` against `base`, "
        f"{seeds} run seed{'s' if seeds != 1 else ''}, {percent} % paired bootstrap intervals in brackets.\n"
    )
    parts = [head]
    for protocol in figures.protocols():
        lines = [_sentence(Claim(**claim)) for claim in facts["claims"] if claim["protocol"] == protocol]
        lines += _both_right(figures, facts["checkpoint"], protocol)
        parts.append(
            f"## {PROTOCOL_WORDS[protocol][0].upper()}{PROTOCOL_WORDS[protocol][1:]}\n\n" + "\n".join(lines) + "\n"
        )
    sentences = [*_iterations(figures, chain), *_other_chains(figures, config), *_arms(figures, config)]
    parts.append("## The paper's other claims\n\n" + "\n".join(sentences) + "\n")
    if figures.compared:
        parts.append("## Between arms\n\n" + "\n".join(_between_arms(figures, config)) + "\n")
    parts.append("## What limits this answer\n\n" + "\n".join(_limits(figures, facts, config, judge or {})) + "\n")
    if credit := world_of(config.data).credit:
        parts.append(f"{credit}.\n")
    return "\n".join(parts)


def _rounded(value: float) -> float:
    return round(value, 6) + 0.0


def _sentence(claim: Claim) -> str:
    delta = with_interval(claim.delta, claim.low, claim.high, 3, signed=True)
    side = claim.claim.split()[-2]
    text = (
        f"- **Claim: {claim.claim}. {VERDICTS[claim.verdict]}** {side.capitalize()} went from "
        f"{number(claim.base, 3)} to {number(claim.value, 3)}, a change of {delta}"
    )
    if claim.claim == "understanding held":
        where = "within" if claim.delta >= -TOLERANCE else "beyond"
        text += f"; held means not lower by more than {TOLERANCE}, and the point value is {where} that"
    if claim.verdict == "no":
        return text + ". This claim of the paper does not hold here."
    if claim.verdict == "open":
        return text + ". The interval reaches across the bound, so this run neither shows nor refutes it."
    return text + "."


def _both_right(figures: Figures, checkpoint: str, protocol: str) -> list[str]:
    metric = f"gap/{protocol}/both_right"
    if not figures.measured(metric):
        return []
    base, statistic = figures.get(BASE, metric), figures.get(checkpoint, metric)
    return [
        "- Both right, the same question about the real image and on the generated one: from "
        f"{number(base['value'], 3)} to {number(statistic['value'], 3)}, a change of {change(statistic, 3)} "
        f"({_direction(statistic)})."
    ]


def _iterations(figures: Figures, chain: tuple[str, ...]) -> list[str]:
    if len(chain) < 2:
        return ["- Iterations: only one was run, so this run says nothing about more of them."]
    lines = []
    for protocol in figures.protocols():
        values = [figures.get(c, f"gap/{protocol}/gap")["value"] for c in (BASE, *chain)]
        steps = " -> ".join(number(value, 3) for value in values)
        better = [b < a for a, b in pairwise(values)]
        worse = ", ".join(f"`{c}`" for c, good in zip(chain, better, strict=True) if not good)
        verdict = f"no: not with {worse}" if worse else "yes"
        lines.append(
            f"- Does the gap narrow with every iteration ({protocol} protocol; base -> {' -> '.join(chain)}: {steps})? "
            f"By the point values, {verdict}."
        )
    return lines


def _other_chains(figures: Figures, config: Config) -> list[str]:
    """What other ways of running the iterations came to, each with what sets it apart."""
    lines, protocol = [], figures.protocol
    for chain in pair_chains(config):
        last = chain[-1]
        if chain == pair_chain(config) or last not in figures.checkpoints:
            continue
        apart = ", ".join(_settings(config, chain[0], "parent", "objective"))
        steps = " -> ".join(number(figures.get(c, f"gap/{protocol}/gap")["value"], 3) for c in (BASE, *chain))
        statistic = figures.get(last, f"gap/{protocol}/gap")
        lines.append(
            f"- Trained otherwise ({apart or 'same settings'}), base -> {' -> '.join(chain)}, the {protocol} gap "
            f"goes {steps}; `{last}` against base {change(statistic, 3)}."
        )
    return lines


def _settings(config: Config, checkpoint: str, *without: str) -> list[str]:
    entry = as_plain(config.checkpoints[checkpoint])
    return [f"{key} {value}" for key, value in entry.items() if key not in without and value is not None]


def _between_arms(figures: Figures, config: Config) -> list[str]:
    lines = [
        "One iteration of Pair-DPO less an arm that leaves out the preference (objective `chosen`: best-of-n "
        "fine-tuning) or the captions (objective `generation`), each from base on the same candidates, "
        f"{PROTOCOL_WORDS[figures.protocol]}. Differences are taken on the same resampled captions.\n"
    ]
    words = {"yes": "more", "no": "less", "open": "no clear difference"}
    changes: dict[tuple[str, str], list[str]] = {}
    for one in between_arms(figures):
        verdict = verdict_above(one["delta_low"], one["delta_high"], 0.0)
        text = f"{one['metric'].split('/')[-1].replace('_', ' ')} {change(one, 3)} ({words[verdict]})"
        changes.setdefault((one["checkpoint"], one["against"]), []).append(text)
    for pair, texts in changes.items():
        first, second = (f"`{name}` ({', '.join(_settings(config, name, 'parent'))})" for name in pair)
        lines.append(f"- {first} less {second}: {'; '.join(texts)}.")
    return lines


_SKILLS = (
    (("pope/accuracy", "POPE accuracy"), ("gap/self/understanding", "questions on real images")),
    (("geneval/overall", "GenEval overall"), ("gap/self/generation", "questions on generated images, own answers")),
)
"""What stands for understanding and for generation: a benchmark where it was measured, else what the model says."""


def _arms(figures: Figures, config: Config) -> list[str]:
    lines = []
    part = roles(config)
    for role in ("understanding", "generation", "pair-1"):
        checkpoint = part.get(role, "")
        if checkpoint not in figures.checkpoints:
            continue
        changes = []
        for benchmark, substitute in _SKILLS:
            metric, name = benchmark if figures.measured(benchmark[0]) else substitute
            statistic = figures.get(checkpoint, metric)
            changes.append(f"{name} {change(statistic, 3)} ({_direction(statistic)})")
        what = "both skills" if role == "pair-1" else f"{role} only"
        lines.append(f"- One iteration trained on {what} (`{checkpoint}`), change against base: {'; '.join(changes)}.")
    if len(lines) > 1:
        where = "those against each other stand below" if figures.compared else "not against each other"
        lines.append(
            "- The paper finds that one-sided training leaves or lowers the other skill while Pair-DPO lifts both; "
            f"the lines above say what was measured here. Their intervals are against base, {where}."
        )
    return lines


def _direction(statistic: dict[str, float]) -> str:
    up = verdict_above(statistic["delta_low"], statistic["delta_high"], 0.0)
    return {"yes": "up", "no": "down", "open": "no clear change"}[up]


_WORLD = (
    "- A {world} of {shows} and a model of about a million parameters: the method is the paper's, the "
    "scale is not. Levels cannot be compared with the paper's, directions can."
)
_PIXEL_JUDGE = (
    "- The judge reads pixels by {reading}, without a model. Of {images} held-out real images it accepts {accepted} % "
    "of the true captions, rejects {rejected} % of the captions with one fact wrong, and answers {right} % of the "
    "questions as the captions do; it reads {same} % of their reconstructions by the image tokenizer as it reads the "
    "originals, and what is lost there counts against generation."
)
_NO_JUDGE = (
    "- The gap has no judge but the model itself: a model may overrate the images that it generated, "
    "more so after training on its own answers. Section `benchmarks.gap` of the config names a judge "
    "(docs/benchmarks.md)."
)
_JUDGE = (
    "- The judge of real and generated images is a model too: the notes of Table 4 say how often it is right about "
    "real images, and what it cannot see counts as wrong."
)


def _of_world(config: Config, judge: Mapping[str, Any]) -> list[str]:
    """What a small world and its judge are; the judge's shares where they were measured."""
    world = world_of(config.data)
    lines = [_WORLD.format(world=world.title, shows=world.shows)]
    if "reconstructions" in judge:
        real, rebuilt = judge["real images"]["all"], judge["reconstructions"]["all"]
        shares = {
            "accepted": real["captions accepted"],
            "rejected": real["wrong captions rejected"],
            "right": real["questions right"],
            "same": rebuilt["same scene"],
        }
        percent = {name: number(100 * share, 1) for name, share in shares.items()}
        lines.append(_PIXEL_JUDGE.format(reading=world.reading, images=real["images"], **percent))
    return lines


def _limits(figures: Figures, facts: dict[str, Any], config: Config, judge: Mapping[str, Any]) -> list[str]:
    seeds = facts["seeds"]
    of_real = _NO_JUDGE if figures.protocols() == (SELF,) else _JUDGE
    lines = [
        *([of_real] if figures.real else _of_world(config, judge)),
        "- The paper prints neither seeds nor intervals, and different judges on the two sides of its gap.",
    ]
    training = as_plain(training_of(config, facts["checkpoint"]))
    changed = [f"{key} {training[key]} (paper {was})" for key, was in PAPER_TRAINING.items() if training[key] != was]
    if changed:
        lines.append(f"- `{facts['checkpoint']}` is not trained exactly as the paper says: {', '.join(changed)}.")
    if seeds < 3:
        lines.append(
            f"- {seeds} seed{'s' if seeds != 1 else ''}: the intervals say how the figures vary over prompts, and next "
            "to nothing about how they would vary over trainings. `make paper` runs several seeds."
        )
    differ = {
        claim["claim"]
        for claim in facts["claims"]
        for other in facts["claims"]
        if claim["claim"] == other["claim"] and claim["verdict"] != other["verdict"]
    }
    if differ:
        which = "two protocols" if len(figures.protocols()) == 2 else "protocols"
        lines.append(f"- The {which} disagree on: {', '.join(sorted(differ))}.")
    return lines
