"""Stage `understand` on the small world's checkpoint and tasks, by the real command line."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hermesflow.config.benchmarks import Benchmarks, Understanding
from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.stages import understand

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"


@dataclass(frozen=True)
class Staged:
    """A config with Flickr30k alone, and where its results go."""

    config: Config
    layout: Layout

    @classmethod
    def of(cls, small_world, folder):
        layout = Layout(folder / "results")
        layout.tokenizer.parent.mkdir()
        layout.tokenizer.symlink_to(small_world.root / "tokenizer")
        for checkpoint in ("plain", "karpathy"):
            layout.checkpoint(0, checkpoint).mkdir(parents=True)
            (layout.checkpoint(0, checkpoint) / "model").symlink_to(small_world.root / "model")
        own = Understanding(
            columns=("flickr30k",),
            batch_size=2,
            python=sys.executable,
            tasks=str(small_world.root / "tasks"),
            cache=str(folder / "cache"),
        )
        return cls(replace(load_config(SMOKE), benchmarks=Benchmarks(understanding=own)), layout)

    @property
    def own(self):
        return self.config.benchmarks.understanding

    def with_(self, **changes):
        """The same with other settings of the section."""
        benchmarks = replace(self.config.benchmarks, understanding=replace(self.own, **changes))
        return replace(self, config=replace(self.config, benchmarks=benchmarks))

    def run(self, checkpoint):
        """Run the stage; the benchmark's folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_HUB_OFFLINE", "1")
            patch.delenv("HF_HOME", raising=False)
            understand.run(self.config, self.layout, seed=0, checkpoint=checkpoint, benchmark="flickr30k")
        return self.layout.benchmark(0, checkpoint, "flickr30k")
