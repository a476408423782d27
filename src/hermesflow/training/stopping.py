"""Early stopping: a training is checked now and then, ends where it gets no better, and its best weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from hermesflow.config.sections import Stopping
from hermesflow.core.errors import ConfigError


class EarlyStopping:
    """The checks of a training and the trained weights at the best of them, the first of equal ones.

    Both are in every full state (accelerate saves what is registered with it), so that a training that was killed goes
    on with them.

    Args:
        settings: how often to check, and after how many checks that were no better to end.
        measure: what is to grow, of the weights as they are; called by the main process alone.
        model: whose trained parameters are kept.
        accelerator: of the training.

    Raises:
        ConfigError: the training is sharded, and no process has all weights to measure.
    """

    def __init__(
        self, settings: Stopping, measure: Callable[[], float], model: nn.Module, accelerator: Accelerator
    ) -> None:
        if accelerator.distributed_type == DistributedType.FSDP:
            raise ConfigError(
                "training.stopping: no process of a sharded training has all weights to draw with. Remove it, or take "
                "a runtime.accelerate without FSDP."
            )
        self.checks: dict[int, float] = {}
        self._settings, self._measure, self._accelerator = settings, measure, accelerator
        self._parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._weights: dict[str, Tensor] = {}
        accelerator.register_for_checkpointing(self)

    def check(self, step: int, *, last: bool) -> float | None:
        """The figure after a step, the same on all processes; None where no check is due. The last step is checked."""
        if step % self._settings.every and not last:
            return None
        measured = [self._measure() if self._accelerator.is_main_process else 0.0]
        (value,) = broadcast_object_list(measured)
        if value > max(self.checks.values(), default=-float("inf")):
            self._weights = {name: one.detach().cpu().clone() for name, one in self._parameters.items()}
        self.checks[step] = value
        return value

    @property
    def best(self) -> int:
        """The step whose weights are kept; 0 before the first check."""
        return max(self.checks, key=lambda step: self.checks[step], default=0)

    @property
    def is_over(self) -> bool:
        """Whether so many checks since the best one were no better."""
        return len([step for step in self.checks if step > self.best]) >= self._settings.patience

    def restore(self) -> None:
        """Put the best weights back."""
        with torch.no_grad():
            for name, one in self._parameters.items():
                one.copy_(self._weights[name])

    def state_dict(self) -> dict[str, Any]:
        """For accelerate."""
        return {"checks": self.checks, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For accelerate."""
        self.checks, self._weights = state["checks"], state["weights"]
