import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from hermesflow.cli import commands, main
from hermesflow.core.errors import DataError, is_disk_full
from hermesflow.data.sources.store import Taken, open_store


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill_store(path):
    with open_store(path, made_from="", retry=False) as store:
        store.add_images([Taken("a", "", "", (), bytes(100_000))])


WRITERS = {
    "sqlite": fill_store,
    "text": lambda path: Path(path).write_text("x" * 100_000),
    "numpy": lambda path: np.save(path, np.zeros(100_000)),
    "torch": lambda path: torch.save(torch.zeros(100_000), path),
    "safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
    "parquet": lambda path: pd.DataFrame({"a": range(100_000)}).to_parquet(path),
    "csv": lambda path: pd.DataFrame({"a": range(100_000)}).to_csv(path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_library_we_write_with_is_understood(small_disk, write):
    with pytest.raises(Exception) as caught:
        write(small_disk / "file")
    assert is_disk_full(caught.value)
    error = DataError("something else")
    error.__cause__ = caught.value
    assert is_disk_full(error)


def test_other_errors_are_not_a_full_disk():
    assert not is_disk_full(FileNotFoundError(2, "No such file"))
    assert not is_disk_full(RuntimeError("shapes differ"))


def test_the_command_says_what_to_do(small_disk, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "_schema", lambda arguments: np.save(small_disk / "x", np.zeros(100_000)))
    assert main.main(["schema"]) == 1
    assert "Free some space, then give the same command again" in capsys.readouterr().err


def test_other_errors_keep_their_traceback(monkeypatch):
    def broken(arguments):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(commands, "_schema", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main.main(["schema"])
