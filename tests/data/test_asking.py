"""Questions from models: written and checked in blocks, kept, merged with the source's own, and counted."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from hermesflow.config.data import QuestionModels
from hermesflow.config.load import load_config
from hermesflow.core.errors import ConfigError
from hermesflow.core.files import Layout
from hermesflow.data.questions.text_models import Checker, Generator
from hermesflow.data.sources import real_pairs
from hermesflow.stages import data as stage
from tests.support.journeydb_world import SIZES, TOTAL, files_of, good_world, write_config, write_files
from tests.support.pair_rows import read_rows
from tests.support.tiny_text_models import TIFA_TEXT, make_llama, make_t5

ROOT = Path(__file__).parents[2]
FILES = [*(f"{split}.parquet" for split in SIZES), "selection.json", "rejected.csv", "questions.csv"]
MODELS = {"generator": "writer", "checker": "checker", "batch_captions": 4, "format": "tifa"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    captions = ["A picture of thing 0 0.", "A picture of thing 2 8."]
    return {
        "tifa": make_llama(folder / "tifa", captions, chat=False),
        "json": make_llama(folder / "json", captions, chat=True),
        "checker": make_t5(folder / "checker", captions),
    }


def settings_of(tiny: dict[str, Path], form: str) -> dict:
    models = {"generator": str(tiny[form]), "checker": str(tiny["checker"])}
    return {**models, "format": form, "batch_captions": 4, "beams": 2, "max_new_tokens": 90, "dtype": "float32"}


@pytest.fixture
def copy(tmp_path) -> Path:
    return write_files(tmp_path / "copy", files_of(*good_world()))


def run(copy: Path, results: Path, **data: object) -> Layout:
    config = load_config(write_config(results / "config.yaml", path=str(copy), **data))
    layout = Layout(results / config.name)
    stage.run(config, layout)
    return layout


def contents(layout: Layout) -> dict[str, bytes]:
    return {name: (layout.root / "data" / name).read_bytes() for name in FILES}


def counts(layout: Layout) -> dict[tuple[str, str], int]:
    table = pd.read_csv(layout.root / "data" / "questions.csv")
    return {(row[0], row[1]): row[2] for row in table.itertuples(index=False)}


def test_tifas_model_and_checker_run_and_their_questions_join_the_own_ones(tiny, copy, tmp_path):
    layout = run(copy, tmp_path, questions=settings_of(tiny, "tifa"))
    assert counts(layout) == {
        ("source", "kept"): 2 * TOTAL,
        ("model", "kept"): TOTAL,
        ("model", "caption says another choice"): TOTAL,  # the tiny checker says yes to everything
        ("model", "not the lines Q, Choices, A"): TOTAL,
    }
    for split in SIZES:
        for row in read_rows(layout.data(split)):
            assert [q["kind"] for q in row["questions"]] == ["style", "content", "animal/human"]
            assert row["questions"][2]["question"] == "are there dogs?"


def test_an_instruct_model_writes_json(tiny, copy, tmp_path):
    layout = run(copy, tmp_path, questions=settings_of(tiny, "json"))
    assert counts(layout)["model", "kept"] == TOTAL


def test_results_do_not_depend_on_the_padding_of_a_batch(tiny):
    plain = QuestionModels(**settings_of(tiny, "tifa"))
    writer, checker = Generator(plain, device="cpu"), Checker(plain, device="cpu")
    captions = ["A picture of thing 0 0.", "A picture\nof thing 2 8. A picture of thing 2 8."]
    together = writer.write(captions)
    assert together == [writer.write([caption])[0] for caption in captions]
    assert TIFA_TEXT in together[0]
    assert checker.answer([]) == [] and checker.answer(["are there dogs?", "what? \n \n (A) a"]) == ["yes", "yes"]


class Fake:
    """Models that answer as told and stop after some batches."""

    def __init__(self, *, stop_after: int = 10**6) -> None:
        self.written: list[list[str]] = []
        self.stop_after = stop_after

    def load(self, settings: QuestionModels, device: str):
        return self, self

    def write(self, captions):
        if len(self.written) == self.stop_after:
            raise KeyboardInterrupt
        self.written.append(list(captions))
        header = TIFA_TEXT.partition("Q:")[0]
        return [
            f"{header}Q: is it {c}?\nChoices: yes, no\nA: yes\nQ: What style is it?\nChoices: a, b\nA: a"
            for c in captions
        ]

    def answer(self, prompts):
        return ["yes" if " (A) yes" in prompt else "a" for prompt in prompts]


def use(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_pairs, "_models", fake.load)


def test_a_stopped_run_goes_on_after_the_last_whole_batch_and_ends_the_same(copy, tmp_path, monkeypatch):
    whole, stopped, resumed = Fake(), Fake(stop_after=2), Fake()
    use(whole, monkeypatch)
    expected = contents(run(copy, tmp_path / "whole", questions=MODELS))
    use(stopped, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(copy, tmp_path / "again", questions=MODELS)
    use(resumed, monkeypatch)
    assert contents(run(copy, tmp_path / "again", questions=MODELS)) == expected
    assert stopped.written + resumed.written == whole.written


def test_finished_questions_are_used_again_and_others_settings_write_anew(copy, tmp_path, monkeypatch):
    first, again, other = Fake(), Fake(), Fake()
    use(first, monkeypatch)
    run(copy, tmp_path, questions=MODELS)
    use(again, monkeypatch)
    run(copy, tmp_path, questions=MODELS, gap_pairs=1)
    assert first.written and not again.written
    use(other, monkeypatch)
    run(copy, tmp_path, questions={**MODELS, "min_f1": 0.7})
    assert other.written == first.written


def test_a_repeated_question_is_asked_once(copy, tmp_path, monkeypatch):
    use(Fake(), monkeypatch)
    layout = run(copy, tmp_path, questions=MODELS)
    assert counts(layout) == {("source", "kept"): 2 * TOTAL, ("model", "kept"): TOTAL, ("model", "asked before"): TOTAL}


def test_a_pair_without_own_questions_lives_on_those_of_the_model(tmp_path, monkeypatch):
    records, images = good_world()
    for record in records:
        del record["Task3"]
    fake = Fake()
    spoiled = {"A picture of thing 0 0.", "A picture of thing 1 1."}
    write = fake.write
    fake.write = lambda captions: [
        "nothing" if c in spoiled else t for c, t in zip(captions, write(captions), strict=True)
    ]
    use(fake, monkeypatch)
    layout = run(write_files(tmp_path / "copy", files_of(records, images)), tmp_path, questions=MODELS, base_pairs=10)
    rows = [row for split in SIZES for row in read_rows(layout.data(split))]
    assert len(rows) == TOTAL + 10 and not {row["caption"] for row in rows} & spoiled
    reasons = pd.read_csv(layout.root / "data" / "rejected.csv")["reason"].tolist()
    assert reasons == ["no questions"] * len(reasons)


def blocks_in(store: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM texts").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


def test_a_killed_process_ends_the_same(tiny, copy, tmp_path):
    settings = settings_of(tiny, "tifa")
    whole = run(copy, tmp_path / "whole", questions=settings)
    config = write_config(tmp_path / "config.yaml", path=str(copy), questions=settings)
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "hermesflow", "data", "--config", str(config), "--results", str(tmp_path)]
    process = subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    kept = tmp_path / "real" / "data" / "work" / "questions.sqlite"
    deadline = time.monotonic() + 600  # a busy machine
    while not blocks_in(kept) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert blocks_in(kept)
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(Layout(tmp_path / "real")) == contents(whole)


@pytest.mark.parametrize("key", ["generator", "checker"])
def test_a_model_that_cannot_be_read_is_one_paragraph_with_the_mend(tiny, copy, tmp_path, key, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    settings = {**settings_of(tiny, "tifa"), key: str(tmp_path / "empty")}
    with pytest.raises(ConfigError, match=rf"data\.questions\.{key}: .*safetensors") as error:
        run(copy, tmp_path, questions=settings)
    assert "\n" not in str(error.value)


def test_a_tensor_that_is_not_there_is_named(tiny, copy, tmp_path):
    folder = shutil.copytree(tiny["checker"], tmp_path / "checker")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in sorted(tensors) if name.endswith(".wo.weight"))
    save_file({k: v for k, v in tensors.items() if k != gone}, folder / "model.safetensors", metadata={"format": "pt"})
    wanted = rf"data\.questions\.checker .*1 tensors are not there, the first is {gone}"
    with pytest.raises(ConfigError, match=wanted):
        run(copy, tmp_path, questions={**settings_of(tiny, "tifa"), "checker": str(folder)})


def test_a_pickle_of_weights_is_refused(tiny, copy, tmp_path):
    import torch

    folder = shutil.copytree(tiny["tifa"], tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        run(copy, tmp_path, questions={**settings_of(tiny, "tifa"), "generator": str(folder)})


def test_format_json_needs_a_chat_template(tiny, copy, tmp_path):
    settings = {**settings_of(tiny, "tifa"), "format": "json"}
    with pytest.raises(ConfigError, match="no chat template"):
        run(copy, tmp_path, questions=settings)
