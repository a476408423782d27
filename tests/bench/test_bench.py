"""The bench at a tiny size, and the counting behind its limits."""

import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import growth, limits, measuring, plain, report, sizes, works
from hermesflow.models.showo import generation

ROOT = Path(__file__).parents[2]
TINY = sizes.SIZES["tiny"]
FAMILIES = ("showo", "emu3", "janus")
FIGURES = ("time_ratio", "memory_ratio", "fraction_of_limit", "seconds", "plain_seconds", "limit_seconds")
FIGURES += ("flops_per_second", "flops_of_peak", "time_ratio_limit")


def bench(folder, *options):
    path, output = os.pathsep.join([str(ROOT / "src"), str(ROOT)]), folder / "bench" / "latest.json"
    subprocess.run(
        [sys.executable, "-m", "bench", "--size", "tiny", "--output", str(output), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    bench(folder, "--full", "--repeats", "1")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return json.loads((folder / "bench" / "latest.json").read_text())


def test_all_entries_have_finite_figures(found):
    expected = [(family, name) for family in FAMILIES for name in works.NAMES]
    assert [(entry["family"], entry["name"]) for entry in found["benchmarks"]] == expected
    for entry in found["benchmarks"]:
        assert all(math.isfinite(entry[key]) and entry[key] > 0 for key in FIGURES), entry
        assert entry["same"] is True and entry["plain_measured"] == 1
        assert entry["fraction_of_limit"] <= 1
        assert entry["flops"] >= entry["limit_flops"] * (1 - 1e-9)  # the limit is one
    assert found["machine"]["threads"] == 1 and found["machine"]["flops"] > 1e8


def test_growth_loading_and_figures(folder, found):
    assert [curve["n"] for curve in found["growth"]] == [[1, 2, 5, 10, 20], [4, 8, 16, 32], [1, 2, 4, 8]]
    assert all(math.isfinite(curve[key]) for curve in found["growth"] for key in ("slope", "intercept", "r2"))
    assert [len(shard["per_second"]) for shard in found["shards"]] == [4, 4]
    assert 0 < found["loading"]["share"] < 1
    for name in ("ratios", "growth"):
        assert (folder / "bench" / f"{name}.png").stat().st_size > 5000


def test_it_is_in_mlflow(folder, found):
    with sqlite3.connect(folder / "mlflow.db") as database:
        metrics = dict(database.execute("SELECT key, value FROM latest_metrics"))
        params = dict(database.execute("SELECT key, value FROM params"))
        experiments = {name for (name,) in database.execute("SELECT name FROM experiments")}
    assert "bench" in experiments and params["size"] == "tiny"
    for entry in found["benchmarks"]:
        assert metrics[f"{entry['family']}/{entry['name']}/time_ratio"] == pytest.approx(entry["time_ratio"])
    assert list(folder.glob("mlartifacts/bench/**/latest.json"))


def test_a_server_that_is_away_stops_nothing(found, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    report.log(found, tmp_path, {"only": "captioning"})
    assert "The work goes on" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["captioning", "vqa_generate", "image_decoding"])
def test_a_part_of_the_plain_path_stands_for_its_flops(name):
    model = sizes.random_model(TINY)
    whole, part = (works.works(TINY, model, full=full)[name]() for full in (True, False))
    flops = [measuring.counted(work.plain.prepare()) for work in (whole, part)]
    assert part.plain.share < 1 and flops[1] == pytest.approx(flops[0] * part.plain.share, rel=1e-6)
    assert whole.limit == part.limit


def test_plain_flops_are_those_of_a_plain_pass():
    model = sizes.random_model(TINY)
    flops = measuring.counted(lambda: plain.next_logits(model, sizes.images(TINY, 1)[0], [2] * 7))
    assert limits.plain_flops(TINY.decoder, rows=1, length=19 + 7) == pytest.approx(flops, rel=1e-6)


def test_masked_counts_are_those_of_the_sampler():
    for tokens, steps in ((16, 5), (256, 50), (4, 9)):
        masked, counts = torch.ones(1, tokens, dtype=torch.bool), []
        for step in range(steps):
            counts.append(int(masked.sum()))
            count = generation._count_masked(step, steps, tokens, masked)
            masked = generation._least_confident(torch.rand(1, tokens), masked, count)
        assert limits.masked_counts(tokens, steps) == counts


def test_a_step_reads_all_weights_or_multiplies():
    decoder = TINY.decoder
    machine = limits.Machine(flops=1.0, bandwidth=1e30)
    passes = limits.captioning(decoder, prompt=3, rows=2, tokens=5)
    assert machine.seconds(passes) == pytest.approx(limits.flops_of(passes))
    slow = limits.Machine(flops=1e30, bandwidth=1.0)
    weights = 4 * (decoder.layers * decoder.layer_weights + decoder.hidden_size * decoder.vocabulary)
    positions = sum(22 + 2 * written for written in range(5))  # an image of 19 columns and a prompt; both rows' tokens
    assert slow.seconds(passes) == pytest.approx(5 * weights + positions * 4 * 2 * decoder.hidden_size * decoder.layers)


def test_images_described_together_share_the_reading_of_weights_and_no_keys():
    one, eight = (limits.captioning(TINY.decoder, prompt=3, rows=2, tokens=5, together=n) for n in (1, 8))
    assert limits.flops_of(one) == pytest.approx(limits.flops_of(eight))
    weights = 4 * (
        TINY.decoder.layers * TINY.decoder.layer_weights + TINY.decoder.hidden_size * TINY.decoder.vocabulary
    )
    for alone, together in zip(one, eight, strict=True):
        assert alone.times * (alone.read - weights) == pytest.approx(together.times * (together.read - weights))


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_of_a_size_is_that_of_its_model(family):
    size = TINY.of(family)
    model = sizes.random_model(size)
    layer, decoder = model.decoder_layers[0], size.decoder
    matrices = [parameter.numel() for parameter in layer.parameters() if parameter.ndim == 2]
    assert decoder.layer_weights == sum(matrices) and decoder.layers == len(model.decoder_layers)
    assert (
        decoder.vocabulary
        == model.get_parameter("showo.lm_head.weight" if family == "showo" else "lm_head.weight").shape[0]
    )
    assert decoder.image_tokens == model.num_image_tokens == 16
    if family != "showo":
        assert decoder.image_prefix == model.image_prefix and decoder.image_block == model._block_length
        assert not any(p.requires_grad for part in model.frozen for p in part.parameters())


def test_columns_that_are_forced_have_no_logits_and_keys_of_few_heads_are_read():
    emu3 = TINY.of("emu3").decoder
    passes = limits.image_decoding(emu3, texts=[5], rows_each=3, steps=9, guided=True)
    assert len(passes) == 1 + 16 + 3
    logits = 16 * 3 * 2 * emu3.hidden_size * emu3.codes
    layers = (5 + 3 + 2 * 3 * 19) * emu3.layers * 2 * emu3.layer_weights
    seen = 5 * 3 + 3 * 2 + 3 * sum(5 + t + 3 + t for t in range(1, 20))  # the unconditional prompt has 3 columns
    assert limits.flops_of(passes) == pytest.approx(logits + layers + 4 * emu3.hidden_size * emu3.layers * seen)
    weights = emu3.layers * emu3.layer_weights + emu3.hidden_size * emu3.codes
    keys = 2 * emu3.hidden_size // 2 * emu3.layers * (5 + 3 + 2 * 3 * 19)  # one head of keys for two of queries
    assert passes[-1].read == pytest.approx(4 * (weights + keys))


def test_the_tower_of_images_that_are_read_runs_once_for_all_texts_and_has_no_gradient():
    janus = TINY.of("janus").decoder
    few, many = (limits.captioning(janus, prompt=3, rows=rows, tokens=2) for rows in (1, 9))
    assert few[0] == many[0] and few[0].flops == janus.tower_flops > 0
    pair = limits.PairLengths((3, 4), 5, 16)
    tower, step = limits.pair_dpo_step(janus, prompt=3, pairs=[pair])
    assert tower.flops == janus.tower_flops and step.times == 1


def test_no_work_is_said_to_beat_its_limit(monkeypatch):
    slow = limits.Machine(flops=1.0, bandwidth=1e30)  # as if the peak had been measured on a machine that was busy
    monkeypatch.setattr(measuring.Machine, "measured", staticmethod(lambda *_: slow))
    work = works.works(TINY, sizes.random_model(TINY), full=False)["vqa_likelihood"]()
    entry = measuring.entry("one", work, family="showo", repeats=1)
    assert 0 < entry["fraction_of_limit"] <= 1


def test_a_line_is_fitted_by_least_squares():
    assert growth.line([1, 2, 4], [3, 5, 9]) == pytest.approx({"slope": 2, "intercept": 1, "r2": 1})
    assert growth.line([0, 1, 2, 3], [0, 1, 0, 1])["r2"] == pytest.approx(0.2)
