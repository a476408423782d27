"""Pair-DPO: direct preference optimisation of understanding and generation on homologous pairs.

Everything here is a pure function of summed log-probabilities, one value per pair, `(B,)`; the caller reduces.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Objective = Literal["pair", "product", "understanding", "generation", "chosen"]


def dpo_logratios(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
) -> Tensor:
    """How much more than the reference the policy prefers chosen to rejected: the paper's delta, without beta.

    Args:
        policy_chosen_logps: (B,) nats, summed over the scored tokens of the chosen answer.
        policy_rejected_logps: (B,) the same of the rejected answer.
        reference_chosen_logps: (B,) of the chosen answer under the frozen reference.
        reference_rejected_logps: (B,) of the rejected answer under the frozen reference.

    Returns:
        (B,) nats; 0 where policy and reference agree.

    Raises:
        ValueError: not four vectors of one length.

    Source: HermesFlow section 3.3; Rafailov et al. 2023, Eq. 7 (the bracket).
    """
    logps = (policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    if any(x.ndim != 1 or x.shape != policy_chosen_logps.shape for x in logps):
        raise ValueError(f"log-probs are one value per pair, (B,) each, but got {[tuple(x.shape) for x in logps]}")
    return (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)


def pair_dpo_loss(
    delta_mmu: Tensor,
    delta_t2i: Tensor,
    *,
    beta: float,
    objective: Objective,
    caption_weight: float | Tensor,
    image_weight: float | Tensor,
) -> Tensor:
    """Pair-DPO: the loss of homologous pairs, row k of both deltas about the same (image, caption).

    | objective       | loss of one pair                                                                          |
    |-----------------|-------------------------------------------------------------------------------------------|
    | `pair`          | -caption_weight * log sigma(beta delta_mmu) - image_weight * log sigma(beta delta_t2i)      |
    | `product`       | -caption_weight * image_weight * log sigma(beta delta_mmu * beta delta_t2i)                 |
    | `understanding` | -caption_weight * log sigma(beta delta_mmu)                                               |
    | `generation`    | -image_weight * log sigma(beta delta_t2i)                                                 |
    | `chosen`        | 0: no preference term; `chosen_nll` is the whole loss (best-of-n fine-tuning)             |

    `pair` is what the paper's appendix derives. `product` is what its main text prints, kept for the ablation. Taken
    literally it cannot start: at policy = reference both deltas are 0, and so is its gradient; and it rewards a policy
    that prefers both rejected answers as much as one that prefers both chosen ones.

    Args:
        delta_mmu: (B,) nats, `dpo_logratios` of captions given the image (understanding).
        delta_t2i: (B,) nats, `dpo_logratios` of image tokens given the caption (generation).
        beta: above 0 (paper 0.2).
        objective: one row of the table.
        caption_weight: weight of the understanding term (paper 1); of every pair, (B,), where some have no such term.
        image_weight: weight of the generation term (paper 1), likewise.

    Returns:
        (B,) nats.

    Raises:
        ValueError: shapes differ, beta <= 0, or an unknown objective.

    Source: HermesFlow section 3.3 (`product`) and appendix (`pair`).
    """
    if delta_mmu.ndim != 1 or delta_mmu.shape != delta_t2i.shape:
        raise ValueError(f"one delta of each kind per pair, but got {tuple(delta_mmu.shape)}, {tuple(delta_t2i.shape)}")
    match objective:
        case "pair":
            understanding = caption_weight * _negative_log_sigma(delta_mmu, beta=beta)
            generation = image_weight * _negative_log_sigma(delta_t2i, beta=beta)
            return understanding + generation
        case "product":
            return caption_weight * image_weight * _negative_log_sigma(delta_mmu * (beta * delta_t2i), beta=beta)
        case "understanding":
            return caption_weight * _negative_log_sigma(delta_mmu, beta=beta)
        case "generation":
            return image_weight * _negative_log_sigma(delta_t2i, beta=beta)
        case "chosen":
            return torch.zeros_like(delta_mmu)
    raise ValueError(f"objective is one of {get_args(Objective)}, but got {objective!r}")


def chosen_nll(
    chosen_mmu_logps: Tensor,
    chosen_t2i_logps: Tensor,
    *,
    objective: Objective,
    caption_weight: float | Tensor = 1.0,
    image_weight: float | Tensor = 1.0,
) -> Tensor:
    """Negative log-likelihood of the chosen answers of the skills that an objective trains.

    DPO is content when rejected falls further than chosen, wherever the mass goes; over several iterations, as chosen
    and rejected grow alike, both fall. This term holds chosen up. It is not in the paper (docs/decisions/0004). Alone,
    as objective `chosen`, it imitates the best of n answers: what Pair-DPO has to beat.

    Args:
        chosen_mmu_logps: (B,) nats of the chosen captions under the policy, summed over their tokens, or per token.
        chosen_t2i_logps: (B,) nats of the chosen images under the policy, likewise over the scored tokens.
        objective: as in `pair_dpo_loss`.
        caption_weight: weight of the chosen captions, as in `pair_dpo_loss`.
        image_weight: weight of the chosen images, likewise.

    Returns:
        (B,) nats.

    Raises:
        ValueError: shapes differ.

    Source: Pang et al. 2024, "Iterative Reasoning Preference Optimization", Eq. 1 (there per token).
    """
    if chosen_mmu_logps.ndim != 1 or chosen_mmu_logps.shape != chosen_t2i_logps.shape:
        shapes = tuple(chosen_mmu_logps.shape), tuple(chosen_t2i_logps.shape)
        raise ValueError(f"log-probs are one value per pair, (B,) each, but got {shapes}")
    understanding, generation = -caption_weight * chosen_mmu_logps, -image_weight * chosen_t2i_logps
    if objective == "understanding":
        return understanding
    if objective == "generation":
        return generation
    return understanding + generation


def implicit_rewards(policy_logps: Tensor, reference_logps: Tensor, *, beta: float) -> Tensor:
    """The reward DPO gives an answer without a reward model, beta * log(policy / reference).

    Args:
        policy_logps: (B,) nats.
        reference_logps: (B,) nats.
        beta: above 0.

    Returns:
        (B,) nats, without gradient: for the training curves.

    Source: Rafailov et al. 2023, Eq. 5 (up to the term that cancels).
    """
    return beta * (policy_logps - reference_logps).detach()


def _negative_log_sigma(delta: Tensor, *, beta: float) -> Tensor:
    if beta <= 0:
        raise ValueError(f"beta must be above 0, but got {beta}")
    # logsigmoid: log(sigmoid(x)) is -inf, and its gradient nan, for x below about -100
    return -F.logsigmoid(beta * delta)
