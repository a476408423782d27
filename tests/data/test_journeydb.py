"""JourneyDB from a local copy and from a hub (the real client against a local server), with what can go wrong."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import constants

from hermesflow.cli.main import main
from hermesflow.config.load import load_config
from hermesflow.core.errors import DataError
from hermesflow.core.files import Layout, read_json
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.data.sources.journeydb import JourneyDbSource
from hermesflow.stages import data as stage
from tests.support.hub_server import HubServer
from tests.support.journeydb_world import (
    ANNOTATIONS,
    SIZES,
    TOTAL,
    files_of,
    good_world,
    jpeg,
    name_of,
    record,
    tgz,
    write_config,
    write_files,
)
from tests.support.pair_rows import read_rows

ROOT = Path(__file__).parents[2]
HUB_ID = "JourneyDB/JourneyDB"


def run_local(folder: Path, results: Path, **data: object) -> Layout:
    config = load_config(write_config(results / "config.yaml", path=str(folder), **data))
    layout = Layout(results / config.name)
    stage.run(config, layout)
    return layout


def command(config: Path, results: Path) -> list[str]:
    return [sys.executable, "-m", "hermesflow", "data", "--config", str(config), "--results", str(results)]


@pytest.fixture
def hub(world):
    """A hub with the good world."""
    with HubServer() as server:
        server.add(HUB_ID, world, kind="datasets")
        yield server


@pytest.fixture
def run_hub(hub, monkeypatch, capfd):
    """`hermesflow data` against the hub: the layout, the exit status and what stands on stderr.

    In this process, as if HF_ENDPOINT had been set before it began: that it is read is seen where a run is killed.
    """
    point_to(hub.endpoint, monkeypatch)

    def run(folder: Path, **data: object) -> tuple[Layout, int, str]:
        config = write_config(folder / "config.yaml", **{"path": HUB_ID, "revision": commit_of(hub), **data})
        status = main(["data", "--config", str(config), "--results", str(folder)])
        return Layout(folder / "real"), status, capfd.readouterr().err

    return run


def commit_of(hub: HubServer) -> str:
    return hub.repositories["datasets", HUB_ID].commit


def fetched(hub: HubServer) -> list[str]:
    return hub.fetched(HUB_ID, kind="datasets")


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def drawn(layout: Layout) -> dict[str, list[str]]:
    return {split: list(read_pairs(layout.data(split))["id"]) for split in SIZES}


def rejected(layout: Layout) -> pd.DataFrame:
    return pd.read_csv(layout.root / "data" / "rejected.csv", keep_default_na=False)


@pytest.fixture
def world() -> dict[str, bytes]:
    return files_of(*good_world())


def test_every_split_has_its_size_no_id_or_caption_twice_and_the_schema(world, tmp_path):
    layout = run_local(write_files(tmp_path / "copy", world), tmp_path)
    ids = drawn(layout)
    assert {split: len(own) for split, own in ids.items()} == SIZES
    everything = [row for split in SIZES for row in read_rows(layout.data(split))]
    assert len({row["id"] for row in everything}) == len({row["caption"] for row in everything}) == TOTAL
    asked = [question for row in everything for question in row["questions"]]
    assert asked and all(question["answer"] in question["choices"] for question in asked)
    for split, size in SIZES.items():
        assert images_of(read_pairs(layout.data(split))).shape[:1] == (size,)
    assert images_of(read_pairs(layout.data("pairs"))).shape == (4, 24, 24, 3)
    assert rejected(layout).empty


def test_a_pair_has_its_caption_and_questions_from_both_groups(world, tmp_path):
    layout = run_local(write_files(tmp_path / "copy", world), tmp_path)
    row = read_pairs(layout.data("pairs"))[0]
    shard, number = (int(part, 16) for part in row["id"].split("/")[1].split("-")[:2])
    assert row["caption"] == f"A picture of thing {shard} {number}." and row["kind"] == "journeydb"
    style, content = row["questions"]
    assert (style["question"], style["kind"]) == ("What style is it?", "style")
    assert (style["choices"], style["answer"]) == (["oil", "pixel art"], "pixel art")
    assert content["answer"] == "blue" and content["kind"] == "content"


def test_the_seed_decides_and_the_sizes_of_other_splits_do_not_matter(world, tmp_path):
    copy = write_files(tmp_path / "copy", world)
    first = drawn(run_local(copy, tmp_path / "a"))
    assert drawn(run_local(copy, tmp_path / "b")) == first
    assert drawn(run_local(copy, tmp_path / "c", base_pairs=3, gap_pairs=1))["pairs"] == first["pairs"]
    assert drawn(run_local(copy, tmp_path / "d", seed=8)) != first


def test_the_same_set_whatever_the_order_of_the_annotations_and_the_form_of_the_copy(world, tmp_path):
    first = drawn(run_local(write_files(tmp_path / "copy", world), tmp_path / "a"))
    records, images = good_world()
    other = {f"data/train/imgs/{name}": content for name, content in images.items()}  # unpacked by hand
    other[ANNOTATIONS] = b"\n".join(json.dumps(one).encode() for one in reversed(records))
    assert drawn(run_local(write_files(tmp_path / "other", other), tmp_path / "b")) == first


@pytest.fixture
def bad_world(tmp_path) -> tuple[list, dict]:
    """Every fault there is, each on a record that would have been drawn."""
    records, images = good_world()
    layout = run_local(write_files(tmp_path / "before", files_of(records, images)), tmp_path / "before")
    chosen = [id_ for own in drawn(layout).values() for id_ in own]
    place = {one["img_path"]: i for i, one in enumerate(records)}
    no_caption, no_questions, same = (place[f"./{chosen[n]}.jpg"] for n in (0, 3, 4))
    records[no_caption]["Task2"] = {"Caption": "  "}
    del images[f"{chosen[1]}.jpg"]
    images[f"{chosen[2]}.jpg"] = images[f"{chosen[2]}.jpg"][:300]
    records[no_questions]["Task3"] = {"Style Relevant Questions and Answers": "none"}
    theirs = records[place[f"./{chosen[5]}.jpg"]]["Task2"]["Caption"]
    records[same]["Task2"] = {"Caption": f" {theirs.upper()}"}
    records.insert(3, b'{"img_path": "./000/cut')
    records.insert(9, {"prompt": "no image"})
    records.append(records[place[f"./{chosen[6]}.jpg"] + 2])
    return records, images


def test_bad_records_are_set_aside_with_file_record_and_reason_and_replaced(bad_world, tmp_path):
    layout = run_local(write_files(tmp_path / "copy", files_of(*bad_world)), tmp_path)
    assert {split: len(own) for split, own in drawn(layout).items()} == SIZES
    table = rejected(layout)
    assert list(table.columns) == ["file", "id", "record", "reason"]
    reasons = [reason.partition(":")[0] for reason in table["reason"]]
    for reason in ("empty caption", "missing image", "corrupt image", "no questions", "duplicate caption"):
        assert reasons.count(reason) == 1, table
    assert {(r.record, r.reason) for r in table.itertuples() if not r.id} == {
        (4, "broken JSON (JSONDecodeError)"),
        (10, "no img_path `./SHARD/IMAGE`"),
    }
    assert set(table["file"]) == {Path(ANNOTATIONS).name}


def test_of_records_with_one_id_the_first_good_one_is_kept(tmp_path):
    records, images = good_world(each=6)
    records.insert(0, record(0, 0, Task2={"Caption": ""}))
    records.append(record(0, 0, Task2={"Caption": "another"}))
    layout = run_local(write_files(tmp_path / "copy", files_of(records, images)), tmp_path, base_pairs=3)
    rows = [row for split in SIZES for row in read_rows(layout.data(split)) if row["id"] == name_of(0, 0)]
    assert [row["caption"] for row in rows] == ["A picture of thing 0 0."]
    own = rejected(layout).set_index("record").query("id == @name_of(0, 0)")["reason"]
    assert dict(own) == {1: "empty caption", len(records): "duplicate id"}


def test_a_source_that_is_too_small_says_how_many_and_why(tmp_path):
    records, images = good_world(shards=1, each=12)
    with pytest.raises(DataError, match=r"only 12 of the 15 pairs asked for \(pairs 4, gap 2") as error:
        run_local(write_files(tmp_path / "copy", files_of(records, images)), tmp_path)
    assert "\n" not in str(error.value)


def test_a_truncated_shard_of_a_local_copy_is_named(world, tmp_path):
    name = "data/train/imgs/001.tgz"
    world[name] = world[name][: len(world[name]) // 3]
    with pytest.raises(DataError, match=r"imgs/001\.tgz: truncated"):
        run_local(write_files(tmp_path / "copy", world), tmp_path)


def test_a_missing_shard_of_a_local_copy_is_named_with_the_mend(world, tmp_path):
    del world["data/train/imgs/002.tgz"]
    copy = write_files(tmp_path / "copy", world)
    with pytest.raises(DataError, match=r"imgs/002\.tgz: missing in this local copy.*data\.shards"):
        run_local(copy, tmp_path)
    layout = run_local(copy, tmp_path, shards=["000", "001"])
    assert {id_[:3] for own in drawn(layout).values() for id_ in own} == {"000", "001"}


def test_a_mended_local_copy_is_looked_at_again(world, tmp_path):
    records, images = good_world(shards=1, each=TOTAL)
    broken = {**images, f"{name_of(0, 3)}.jpg": b"broken"}
    copy = write_files(tmp_path / "copy", files_of(records, broken))
    with pytest.raises(DataError, match="1 corrupt image"):
        run_local(copy, tmp_path)
    write_files(copy, files_of(records, images))
    assert sum(len(own) for own in drawn(run_local(copy, tmp_path)).values()) == TOTAL


def test_another_site_gets_the_same_set_from_the_selection(world, bad_world, tmp_path):
    first = run_local(write_files(tmp_path / "copy", files_of(*bad_world)), tmp_path / "a")
    selection = first.root / "data" / "selection.json"
    second = run_local(tmp_path / "copy", tmp_path / "b", selection=str(selection), seed=99)
    for split in SIZES:
        assert second.data(split).read_bytes() == first.data(split).read_bytes()
    mine, theirs = read_json(selection), read_json(second.root / "data" / "selection.json")
    assert mine["splits"] == theirs["splits"]


def test_another_site_is_told_which_record_differs(world, tmp_path):
    first = run_local(write_files(tmp_path / "copy", world), tmp_path / "a")
    selection = first.root / "data" / "selection.json"
    changed, lost = drawn(first)["pairs"][0], drawn(first)["gap"][1]
    records, images = good_world()
    images[f"{changed}.jpg"] = jpeg(12345)
    del images[f"{lost}.jpg"]
    with pytest.raises(DataError, match=r"2 of 15 records differ here") as error:
        run_local(write_files(tmp_path / "copy", files_of(records, images)), tmp_path / "b", selection=str(selection))
    assert f"{changed}: the image has sha256" in str(error.value) and f"{lost}: missing image" in str(error.value)


def test_a_selection_of_other_sizes_is_refused(world, tmp_path):
    copy = write_files(tmp_path / "copy", world)
    selection = run_local(copy, tmp_path / "a").root / "data" / "selection.json"
    with pytest.raises(DataError, match=r"gap 2, .*the config asks for pairs 4, gap 3"):
        run_local(copy, tmp_path / "b", selection=str(selection), gap_pairs=3)
    with pytest.raises(DataError, match=r"data\.selection: .*nowhere\.json is not there"):
        run_local(copy, tmp_path / "c", selection="nowhere.json")


def test_the_hub_gives_the_same_set_as_a_local_copy_and_nothing_is_left_over(world, tmp_path, hub, run_hub):
    local = run_local(write_files(tmp_path / "copy", world), tmp_path / "local")
    layout, status, said = run_hub(tmp_path)
    assert status == 0, said
    for split in SIZES:
        assert layout.data(split).read_bytes() == local.data(split).read_bytes()
    assert read_json(layout.root / "data" / "selection.json")["origin"] == {
        "source": "journeydb", "shards": [], "repository": HUB_ID, "commit": commit_of(hub),
    }  # fmt: skip
    left = sorted(p.relative_to(layout.root).as_posix() for p in layout.root.rglob("*") if p.is_file())
    own = [*(f"{split}.parquet" for split in SIZES), "manifest.json", "questions.csv", "rejected.csv", "selection.json"]
    expected = sorted(f"data/{name}" for name in [*own, "work/questions.sqlite"])
    assert [path for path in left if not path.startswith(".locks")] == expected


def test_missing_and_corrupt_images_on_the_hub_are_replaced_as_in_a_local_copy(bad_world, tmp_path, hub, run_hub):
    files = files_of(*bad_world)
    local = run_local(write_files(tmp_path / "copy", files), tmp_path / "local")
    hub.add(HUB_ID, files, kind="datasets")
    layout, status, said = run_hub(tmp_path)
    assert status == 0, said
    for name in [*(f"{split}.parquet" for split in SIZES), "rejected.csv"]:
        assert (layout.root / "data" / name).read_bytes() == (local.root / "data" / name).read_bytes()
    assert "missing image" in set(rejected(layout)["reason"].str.partition(":")[0])


def test_only_shards_with_drawn_ids_are_fetched_each_once(tmp_path, hub, run_hub):
    hub.add(HUB_ID, files_of(*good_world(shards=40, each=1)), kind="datasets")
    layout, status, said = run_hub(tmp_path)
    assert status == 0, said
    shards = {id_[:3] for own in drawn(layout).values() for id_ in own}
    assert sorted(fetched(hub)) == sorted([f"{ANNOTATIONS}.tgz", *(f"data/train/imgs/{shard}.tgz" for shard in shards)])


def test_a_connection_cut_in_the_middle_of_a_file_is_taken_up_again(world, tmp_path, hub, run_hub):
    hub.cut(world["data/train/imgs/001.tgz"], after=900, times=2)
    hub.cut(world[f"{ANNOTATIONS}.tgz"], after=90)
    layout, status, said = run_hub(tmp_path)
    assert status == 0, said
    assert {split: len(own) for split, own in drawn(layout).items()} == SIZES
    assert fetched(hub).count("data/train/imgs/001.tgz") == 3


def test_a_wrong_checksum_is_found_said_and_mended_by_the_next_run(world, tmp_path, hub, run_hub):
    shard = "data/train/imgs/001.tgz"
    hub.corrupt(world[shard])
    layout, status, said = run_hub(tmp_path)
    assert status == 1
    assert f"{shard}: its sha256 is" in said and "the hub states" in said and "same command again" in said
    assert not layout.data("pairs").exists()
    hub.corrupt(world[shard], mended=True)
    hub.requests.clear()
    layout, status, said = run_hub(tmp_path)
    assert status == 0, said
    assert fetched(hub) == ["data/train/imgs/001.tgz", "data/train/imgs/002.tgz"]  # 000 was done


@pytest.mark.parametrize(("status", "code"), [(401, "GatedRepo"), (403, "GatedRepo"), (403, ""), (401, "")])
def test_a_gated_repository_is_one_paragraph_with_the_mend(tmp_path, status, code, hub, run_hub, monkeypatch):
    hub.gate(HUB_ID, token="hf_good", kind="datasets", code=code)
    monkeypatch.setenv("HF_TOKEN", "" if status == 401 else "hf_stranger")
    _, exit_status, said = run_hub(tmp_path)
    assert exit_status == 1 and "Traceback" not in said
    assert f"HTTP {status}" in said and "HF_TOKEN" in said and "hf auth login" in said
    if code:
        assert f"Accept its terms at {hub.endpoint}/datasets/{HUB_ID} in a browser" in said
    assert said.strip().count("\n") == 0, said


def test_with_a_token_the_gate_is_open(tmp_path, monkeypatch, hub, run_hub):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub.gate(HUB_ID, token="hf_good", kind="datasets")
    _, status, said = run_hub(tmp_path)
    assert status == 0, said


def test_a_missing_pin_a_wrong_revision_and_a_wrong_shard_are_said(tmp_path, hub, run_hub):
    _, status, said = run_hub(tmp_path, revision=None)
    assert status == 1 and "data.revision is not pinned" in said and "fetch --pin" in said
    assert not hub.requests
    _, status, said = run_hub(tmp_path, revision="f" * 40)
    assert status == 1 and "no such revision" in said and "--pin" in said
    del hub.repositories["datasets", HUB_ID].files["data/train/imgs/002.tgz"]
    _, status, said = run_hub(tmp_path)
    assert status == 1 and "data.shards" in said
    assert "data/train/imgs/002.tgz: no such file" in said


def test_pin_prints_the_commit_of_the_data(tmp_path, hub, monkeypatch, capfd):
    point_to(hub.endpoint, monkeypatch)
    file = write_config(tmp_path / "config.yaml", path=HUB_ID)
    assert main(["fetch", "--pin", "--config", str(file)]) == 0
    assert capfd.readouterr().out == f"data:\n  revision: {commit_of(hub)}\n"


def test_a_killed_run_goes_on_where_it_stopped_and_ends_the_same(tmp_path, hub, run_hub):
    records, images = good_world()
    images["001/large"] = random.Random(0).randbytes(12 << 20)  # more than one chunk of the client
    world = files_of(records, images)
    commit = hub.add(HUB_ID, world, kind="datasets")
    whole, status, said = run_hub(tmp_path / "whole")
    assert status == 0, said
    hub.requests.clear()
    shard = "data/train/imgs/001.tgz"
    hub.stall(world[shard], after=11 << 20)
    config = write_config(tmp_path / "config.yaml", path=HUB_ID, revision=commit)
    environment = {**hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command(config, tmp_path), env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    assert hub.stalled.wait(600)  # a busy machine
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if any(p.stat().st_size == 10 << 20 for p in tmp_path.rglob("imgs/*.incomplete")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert fetched(hub) == [f"{ANNOTATIONS}.tgz", "data/train/imgs/000.tgz", shard]
    hub.requests.clear()
    layout, status, said = run_hub(tmp_path)
    assert status == 0, said
    assert fetched(hub) == [shard, "data/train/imgs/002.tgz"]
    assert next(one.range for one in hub.requests if one.range) == f"bytes={10 << 20}-"
    for name in [*(f"{split}.parquet" for split in SIZES), "selection.json", "rejected.csv", "questions.csv"]:
        assert (layout.root / "data" / name).read_bytes() == (whole.root / "data" / name).read_bytes(), name


def test_without_network_the_mend_is_a_local_copy(tmp_path, monkeypatch, capfd):
    point_to("http://127.0.0.1:9", monkeypatch)
    config = write_config(tmp_path / "config.yaml", path=HUB_ID, revision="0" * 40)
    assert main(["data", "--config", str(config), "--results", str(tmp_path)]) == 1
    said = capfd.readouterr().err
    assert "local copy" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ({"A": "red", "B": "blue"}, "B", "blue"),
        ({"A": "red", "B": "blue"}, "(B) blue", "blue"),
        ({"A": "red", "B": "blue"}, "Blue", "blue"),
        (["red", "blue"], "blue", "blue"),
        ({"A": "A", "B": "B"}, "B", "B"),
        ({"A": "red", "B": "blue"}, "B. red", None),
        ({"A": "red", "B": "blue"}, "D", None),
        ({"A": "red", "B": "red"}, "A", None),
        ({"A": "red"}, "A", None),
        ("red, blue", "red", None),
        ({"A": "red", "B": 3}, "A", None),
        ({"A": "red", "B": "blue"}, None, None),
    ],
)
def test_answers_in_all_their_forms(tmp_path, options, answer, expected):
    item = {"Question": "Which?", "Options": options, "Answer": answer}
    one = record(0, 0, Task3={"Content Relevant Questions and Answers": [item, "text"]})
    write_files(tmp_path, {ANNOTATIONS: json.dumps(one).encode()})
    config = load_config(write_config(tmp_path / "config.yaml", path=str(tmp_path)))
    source = JourneyDbSource(config.data, downloads=tmp_path)
    rows, dropped = source.own_questions(next(iter(source.records())))
    assert [row["answer"] for row in rows] == ([] if expected is None else [expected])
    assert sum(dropped.values()) == (1 if expected else 2)


def test_a_tar_without_annotations_is_said(tmp_path):
    write_files(tmp_path, {f"{ANNOTATIONS}.tgz": tgz({"readme.txt": b"nothing"})})
    with pytest.raises(DataError, match=r"holds no \.jsonl file"):
        run_local(tmp_path, tmp_path / "results")
