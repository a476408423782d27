"""Early stopping whose figure is a plain function of the weights: it grows, turns and falls while they move away."""

from contextlib import contextmanager
from unittest.mock import patch

import torch

from hermesflow.config.sections import Stopping
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import write_pairs
from hermesflow.models.showo.codec import MagVitV2, ShowOCodec

STOPPING = Stopping(every=2, patience=2, prompts=5)
FIGURE = "hermesflow.evaluation.worlds.stopping.strict_acceptance"
TURN = 2.0
"""Distance from the parent's weights at which the figure is highest."""


def write_judged(config, layout):
    """What a training reads that is stopped by a judge: captions of other splits, and a random image tokenizer."""
    for split in ("understanding", "prompts"):
        write_pairs(layout.data(split), list(WORLD.make_pairs(split, 14, config=config.data)))
    torch.manual_seed(0)
    ShowOCodec(MagVitV2(config.image_tokenizer), config.data.image_size).save(layout.tokenizer)


@contextmanager
def figure_of_the_weights(main=True, seen=None):
    """Trainings measure how near they are to a distance from their first weights, instead of drawing.

    Args:
        main: whether this process may be asked at all.
        seen: list that gets the weights of every measurement, whole models.
    """

    def strict_acceptance(config, layout, model, *, prompts, seed):
        first = {name: one.detach().clone() for name, one in model.named_parameters()}

        def measure():
            assert main, "another process than the first was asked"
            moved = sum((one.detach() - first[name]).double().square().sum() for name, one in model.named_parameters())
            if seen is not None:
                seen.append({name: one.detach().clone() for name, one in model.named_parameters()})
            return -abs(float(torch.as_tensor(moved).sqrt()) - TURN)

        return measure, {"dense": prompts}

    with patch(FIGURE, strict_acceptance):
        yield
