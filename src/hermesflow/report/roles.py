"""Which checkpoint of a config plays which part in the paper: the chain, the one-sided arms, the candidate sweep."""

from __future__ import annotations

from hermesflow.config import BASE, Config


def pair_chain(config: Config) -> tuple[str, ...]:
    """The longest chain of Pair-DPO iterations that use all candidates, without base.

    Of chains of one length, the one named first in the config counts.
    """

    def descend(parent: str) -> tuple[str, ...]:
        chains: list[tuple[str, ...]] = [
            (name, *descend(name))
            for name, own in config.checkpoints.items()
            if own.parent == parent and own.objective == "pair" and own.candidates is None
        ]
        return max(chains, key=len, default=())

    return descend(BASE)


def main_checkpoints(config: Config) -> tuple[str, ...]:
    """Base and the last of the chain: the two that stand for Show-o and HermesFlow."""
    return (BASE, *pair_chain(config)[-1:])


def roles(config: Config) -> dict[str, str]:
    """Role in the paper's ablation (`base`, `understanding`, `generation`, `pair-1`...) to checkpoint name."""
    found = {"base": BASE}
    found |= {f"pair-{i}": name for i, name in enumerate(pair_chain(config), start=1)}
    for objective in ("understanding", "generation"):
        for name, own in config.checkpoints.items():
            if own.objective == objective and own.parent == BASE:
                found.setdefault(objective, name)
    return found


def candidate_sweep(config: Config) -> dict[int, str]:
    """Candidates per prompt, ascending, to the checkpoint of one Pair-DPO iteration that used so many."""
    settings = config.sampling
    most = max(settings.images.n, len(settings.captions.decodings))
    chain = pair_chain(config)
    sweep = {most: chain[0]} if chain else {}
    for name, own in config.checkpoints.items():
        if own.parent == BASE and own.objective == "pair" and own.candidates is not None:
            sweep.setdefault(own.candidates, name)
    return dict(sorted(sweep.items()))
