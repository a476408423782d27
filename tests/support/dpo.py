"""The DPO loss of one skill, as Pair-DPO has it where the other skill is not trained."""

import torch

from hermesflow.training.losses import dpo_logratios, pair_dpo_loss


def dpo_loss(*logps, beta):
    """(B,) nats: policy's and reference's log-probs of chosen and rejected."""
    delta = dpo_logratios(*logps)
    weights = {"caption_weight": 1.0, "image_weight": 1.0}
    return pair_dpo_loss(delta, torch.zeros_like(delta), beta=beta, objective="understanding", **weights)
