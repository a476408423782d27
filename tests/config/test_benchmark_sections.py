from pathlib import Path

import pytest
import yaml

from hermesflow.cli.fetching import sources_of
from hermesflow.config.benchmarks import COLUMNS, Benchmarks, Understanding
from hermesflow.config.load import load_config
from hermesflow.core.errors import ConfigError

SHOWO = Path(__file__).parents[2] / "config" / "showo.yaml"


@pytest.fixture
def write(tmp_path):
    """config/showo.yaml with other benchmarks."""

    def writes(change):
        plain = yaml.safe_load(SHOWO.read_text())
        change(plain["benchmarks"])
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(plain))
        return tmp_path / "mine.yaml"

    return writes


PAPERS = ("geneval", "dpg", "coco", "gap")


def test_the_paper_s_scale_has_all_that_the_paper_has():
    own = load_config(SHOWO).benchmarks
    assert own.image_benchmarks == PAPERS and own.columns == COLUMNS


def test_the_micro_world_has_none():
    assert load_config(SHOWO.with_name("micro.yaml")).benchmarks is None


def test_a_section_that_is_left_out_is_no_benchmark(write):
    own = load_config(write(lambda plain: [plain.pop(key) for key in ("dpg", "gap", "understanding")])).benchmarks
    assert own.image_benchmarks == ("geneval", "coco") and own.columns == ()


def test_columns_are_in_the_order_of_the_table():
    own = Benchmarks(understanding=Understanding(batch_size=1, columns=("mmmu", "pope")))
    assert own.columns == ("pope", "mmmu")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: p["geneval"].update(colour=1), r"unknown key `benchmarks\.geneval\.colour`"),
        (lambda p: p["dpg"].update(images=0), r"`benchmarks\.dpg\.images`: .*greater than 0"),
        (lambda p: p["coco"].pop("reference"), r"`benchmarks\.coco\.reference`"),
        (lambda p: p["understanding"].update(columns=["seed"]), r"`benchmarks\.understanding\.columns\.0`: .*'pope'"),
        (lambda p: p["understanding"].update(columns=[]), r"`benchmarks\.understanding\.columns`: .*at least 1"),
        (lambda p: p["gap"]["judge"].update(kind="oracle"), r"`benchmarks\.gap\.judge`: .*'endpoint'"),
        (lambda p: p["gap"]["judge"]["pace"].update(concurrency=0), r"`benchmarks\.gap\.judge\.pace\.concurrency`"),
    ],
)
def test_a_wrong_key_or_value_is_named(write, change, told):
    with pytest.raises(ConfigError, match=told):
        load_config(write(change))


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "https://user:sk-secret@host/v1"},
        {"base_url": "https://host/v1?key=sk-secret"},
        {"key_variable": "sk-secret"},
        {"key_variable": "sk-secret", "kind": "oracle"},
        {"key_variable": "sk-secret", "pace": {"requests_per_minute": 1}},
    ],
)
def test_a_secret_in_the_wrong_place_is_found_when_the_config_is_read_and_not_repeated(write, change):
    with pytest.raises(ConfigError, match=r"benchmarks\.gap\.judge") as caught:
        load_config(write(lambda plain: plain["gap"]["judge"].update(change)))
    assert "sk-secret" not in str(caught.value)


def test_a_key_that_is_not_there_repeats_no_other(write):
    def misplaced(plain):
        plain["gap"]["judge"]["key_variable"] = "sk-secret"
        del plain["gap"]["judge"]["prices"]

    with pytest.raises(ConfigError, match=r"`benchmarks\.gap\.judge\.prices`") as caught:
        load_config(write(misplaced))
    assert "sk-secret" not in str(caught.value)


def test_every_released_model_is_fetched_and_pinned(write):
    local = {"kind": "local", "cache": "c", "model": {"repo": "owner/judge", "files": {"model.safetensors": None}}}
    sources = sources_of(load_config(write(lambda plain: plain.update(gap={"judge": local}))))
    named = {key.removeprefix("benchmarks."): source for key, source in sources.items() if "benchmarks." in key}
    assert set(named) == {
        "geneval.detector",
        "geneval.clip",
        "dpg.judge",
        "coco.inception",
        "coco.clip",
        "gap.judge.model",
    }
    assert named["gap.judge.model"].repo == "owner/judge"
