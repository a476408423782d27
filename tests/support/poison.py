"""One value that is not finite in the gradient of a training, once: a fault of the hardware, or an overflow."""

import os
from contextlib import contextmanager
from unittest.mock import patch

import torch

from hermesflow.training.logps import PairLogps


class Poison(torch.autograd.Function):
    """Its argument forward, and one nan or inf in the gradient backward."""

    @staticmethod
    def forward(ctx, values, wrong):
        ctx.wrong = wrong
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        gradient.view(-1)[0] = ctx.wrong
        return gradient, None


@contextmanager
def poisoned_gradient(forward: int, *, wrong: float = float("nan"), rank: str = "0"):
    """Poison the gradient of that forward pass of training (from 1), in one process; its loss is as ever."""
    count, original = [0], PairLogps.forward

    def poisoned(self, batch):
        logps = original(self, batch)
        if torch.is_grad_enabled():
            count[0] += 1
            if count[0] == forward and os.environ.get("RANK", "0") == rank:
                return logps._replace(chosen_caption=Poison.apply(logps.chosen_caption, wrong))
        return logps

    with patch.object(PairLogps, "forward", poisoned):
        yield
