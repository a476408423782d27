"""Full training states on disk: a training killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedType

from hermesflow.core.errors import ConfigError
from hermesflow.core.files import read_json, write_json

_UNFINISHED = "unfinished-"
"""States under such names are being written or removed."""


@dataclass(frozen=True)
class StateFolder:
    """Full states of a training that may be killed at any moment: weights, optimiser, loss scale, history.

    Order, noise and learning rate are functions of the step and need no state, so that any number of processes can go
    on with a state. accelerate keeps the RNG of each process too; nothing here draws from it.
    """

    folder: Path
    task: str
    """Digest of everything the training is made from; the state of another task is not resumed."""

    def save(self, accelerator: Accelerator, history: list[dict[str, float | None]]) -> None:
        """Write the state after the last step of `history`; then drop older ones.

        Killed or out of disk anywhere in here, the last whole state is there, under its name, and is resumed.
        """
        final = self.folder / f"step-{len(history):08}"
        temporary = self.folder / f"{_UNFINISHED}{len(history):08}"
        if accelerator.is_main_process:
            self._drop(final)  # of another task
        accelerator.wait_for_everyone()
        try:
            accelerator.save_state(str(temporary))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                columns, rows = list(history[0]), [list(row.values()) for row in history]
                progress = {"task": self.task, "sharded": _sharded(accelerator), "columns": columns, "rows": rows}
                write_json(temporary / "progress.json", progress)
                temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # the disk may be full of it
            raise
        if accelerator.is_main_process:
            self._drop(*(path for path in self.folder.glob("step-*") if path != final))
        accelerator.wait_for_everyone()

    def resume(self, accelerator: Accelerator) -> list[dict[str, Any]]:
        """Load the newest whole state of this task into what `accelerator` has prepared; its history, or [].

        Raises:
            ConfigError: the state is sharded and this training is not, or the other way round.
        """
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            progress = read_json(path / "progress.json")
            if progress["task"] == self.task:
                if progress["sharded"] != _sharded(accelerator):
                    mode = "with" if progress["sharded"] else "without"
                    raise ConfigError(
                        f"{path}: was written {mode} FSDP, and this training runs the other way. "
                        "Set runtime.accelerate back, or delete the folder to start anew."
                    )
                accelerator.load_state(str(path))
                accelerator.step = 0  # a step begins; accelerate's count of micro batches is that of other processes
                accelerator.print(f"resuming after step {len(progress['rows'])} from {path}")
                return [dict(zip(progress["columns"], row, strict=True)) for row in progress["rows"]]
        return []

    def remove(self) -> None:
        """Forget all states: training has ended well."""
        self._drop(*self.folder.glob("step-*"))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _drop(self, *states: Path) -> None:
        """Remove states, and what a kill left of others; none that is removed in part has the name of a whole one."""
        for leftover in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover)
        for state in states:
            if state.exists():
                shutil.rmtree(state.rename(state.with_name(f"{_UNFINISHED}{state.name}")))


def _sharded(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.FSDP
