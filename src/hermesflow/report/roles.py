"""Which checkpoint of a config plays which part in the paper: the chain, the one-sided arms, the candidate sweep."""

from __future__ import annotations

from collections.abc import Iterator

from hermesflow.config.experiment import BASE, Config


def pair_chains(config: Config) -> tuple[tuple[str, ...], ...]:
    """All chains of Pair-DPO iterations that use all candidates, from base (left out) to their last checkpoint."""

    def descend(parent: str) -> Iterator[tuple[str, ...]]:
        for name, entry in config.checkpoints.items():
            if entry.parent == parent and entry.objective == "pair" and entry.candidates is None:
                yield from ((name, *chain) for chain in tuple(descend(name)) or ((),))

    return tuple(descend(BASE))


def pair_chain(config: Config) -> tuple[str, ...]:
    """The longest of `pair_chains`, which stands for the paper's; of equally long ones the first of `load_config`."""
    return max(pair_chains(config), key=len, default=())


def main_checkpoints(config: Config) -> tuple[str, ...]:
    """Base and the last of the chain: the two that stand for Show-o and HermesFlow."""
    return (BASE, *pair_chain(config)[-1:])


def roles(config: Config) -> dict[str, str]:
    """Role in the paper's ablation (`base`, `understanding`, `generation`, `pair-1`...) to checkpoint name."""
    checkpoint_of = {"base": BASE}
    checkpoint_of |= {f"pair-{i}": name for i, name in enumerate(pair_chain(config), start=1)}
    for objective in ("understanding", "generation"):
        for name, entry in config.checkpoints.items():
            if entry.objective == objective and entry.parent == BASE:
                checkpoint_of.setdefault(objective, name)
    return checkpoint_of


def arm_pairs(config: Config) -> tuple[tuple[str, str], ...]:
    """One iteration of Pair-DPO of every chain, each with every arm that leaves out what Pair-DPO adds.

    That is what was trained from base, on all candidates, on the chosen answers alone, without a preference, or on the
    preferences of images alone.
    """
    arms = [
        name
        for objective in ("chosen", "generation")
        for name, entry in config.checkpoints.items()
        if entry.parent == BASE and entry.objective == objective and entry.candidates is None
    ]
    first = dict.fromkeys(chain[0] for chain in pair_chains(config))
    return tuple((checkpoint, arm) for checkpoint in first for arm in arms)


def candidate_sweep(config: Config) -> dict[int, str]:
    """Candidates per prompt, ascending, to the checkpoint of one Pair-DPO iteration that used so many."""
    settings = config.sampling
    most = max(settings.images.n, len(settings.captions.decodings))
    chain = pair_chain(config)
    sweep = {most: chain[0]} if chain else {}
    for name, entry in config.checkpoints.items():
        if entry.parent == BASE and entry.objective == "pair" and entry.candidates is not None:
            sweep.setdefault(entry.candidates, name)
    return dict(sorted(sweep.items()))
