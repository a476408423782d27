"""Run configs that change one setting of another each, from its results, and write the page that compares them.

    python workflow/scripts/robustness.py config/pictures-paper.yaml config/robustness/*.yaml

Each is trained by its own settings and measured by those of the other config, as its checkpoints are: so a guidance or
a question's form that scores candidates changes no figure but through the training. What is finished stays.
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from start_from import start

from hermesflow.config.experiment import as_plain
from hermesflow.config.load import load_config
from hermesflow.core.errors import HermesflowError
from hermesflow.core.files import Layout
from hermesflow.report.robustness import write_page


def main(default_file: Path, files: list[Path], target: Path) -> None:
    """Make what is not there yet, then the page."""
    default = load_config(default_file)
    for file in files:
        config = load_config(file)
        layout = Layout(Path("results") / config.name)
        folders = [layout.checkpoint(seed, name) for seed in config.seeds for name in config.checkpoints]
        print(f"{file}: {len(start(default_file, file))} files copied from results/{default.name}", flush=True)
        _run(file, *(folder / "model" / "model.safetensors" for folder in folders))
        measured = layout.root / "measured.yaml"
        checkpoints = dict.fromkeys(default.checkpoints) | as_plain(config)["checkpoints"]
        content = {
            "extends": os.path.relpath(default_file, layout.root),
            "name": config.name,
            "checkpoints": checkpoints,
        }
        measured.write_text(yaml.safe_dump(content, sort_keys=False))
        _run(measured, *(folder / "evaluation" / "metrics.json" for folder in folders), rules=("evaluate",))
    write_page(default, [load_config(file) for file in files], Path("results"), target)


def _run(config_file: Path, *targets: Path, rules: tuple[str, ...] = ()) -> None:
    allowed = ["--allowed-rules", *rules] if rules else []
    status = subprocess.run(["workflow/run", "--configfile", config_file, *allowed, "--", *targets]).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    first, *others = map(Path, sys.argv[1:])
    try:
        main(first, others, Path("docs/results/robustness"))
    except HermesflowError as error:
        sys.exit(f"robustness: {error}")
