"""Fetching through huggingface_hub's own client, in processes of their own, from a hub on 127.0.0.1."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.hub_server import HubServer

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"
REPO = "owner/tokens"
BIG = random.Random(0).randbytes(24 << 20)  # several of the client's chunks of 10 MB
FILES = {"tokenizer.json": b'{"a": 1}', "deep/weights.bin": BIG}


def sums(files=FILES):
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


class World:
    """A hub, a cache, and the command that fetches one source."""

    def __init__(self, folder, hub):
        self.folder, self.hub, self.cache = folder, hub, folder / "cache"
        self.commit = hub.add(REPO, FILES)
        self.source = {"repo": REPO, "revision": self.commit, "files": sums()}

    def command(self, *options, **changes):
        plain = yaml.safe_load(SMOKE.read_text())
        plain["language_model"]["text_tokenizer"] = {**self.source, **changes}
        file = self.folder / "changed.yaml"
        file.write_text(yaml.safe_dump(plain))
        return [sys.executable, "-m", "hermesflow", "fetch", "--config", str(file), *options]

    def fetch(self, *options, env=None, **changes):
        environment = self.hub.environment(self.cache, **(env or {}))
        return subprocess.run(self.command(*options, **changes), capture_output=True, text=True, env=environment)

    def folder_of(self, done):
        assert done.returncode == 0, done.stderr
        key, _, folder = done.stdout.strip().partition(": ")
        assert key == "language_model.text_tokenizer"
        return Path(folder)

    def told(self, done):
        """The one paragraph of a refusal."""
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        [paragraph] = [line for line in done.stderr.splitlines() if line.startswith("hermesflow fetch: ")]
        return paragraph


@pytest.fixture
def world(tmp_path):
    with HubServer() as hub:
        yield World(tmp_path, hub)


def is_whole(folder):
    return all((folder / name).read_bytes() == content for name, content in FILES.items())


def test_files_are_fetched_once_and_then_read_from_the_cache(world):
    folder = world.folder_of(world.fetch())
    assert is_whole(folder)
    asked = len(world.hub.requests)
    assert world.folder_of(world.fetch()) == folder
    assert world.folder_of(world.fetch(env={"HF_HUB_OFFLINE": "1"})) == folder
    assert len(world.hub.requests) == asked


def test_other_programs_find_the_same_cache(world):
    folder = world.folder_of(world.fetch())
    code = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], revision=sys.argv[2]))"
    environment = world.hub.environment(world.cache, HF_HUB_OFFLINE="1")
    command = [sys.executable, "-c", code, REPO, world.commit]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert Path(done.stdout.strip()) == folder


def test_a_cut_connection_goes_on_where_it_stopped(world):
    world.hub.cut(BIG, after=13 << 20)
    assert is_whole(world.folder_of(world.fetch()))
    assert [one.range for one in world.hub.asked("GET", sums()["deep/weights.bin"])] == [None, f"bytes={10 << 20}-"]


def test_a_killed_download_goes_on_where_it_stopped(world):
    world.hub.stall(BIG, after=21 << 20)
    with subprocess.Popen(world.command(), stderr=subprocess.DEVNULL, env=world.hub.environment(world.cache)) as first:
        assert world.hub.stalled.wait(120)
        [partial] = _until(lambda: [p for p in world.cache.rglob("*.incomplete") if p.stat().st_size >= 20 << 20])
        first.send_signal(signal.SIGKILL)
    assert partial.stat().st_size == 20 << 20
    assert is_whole(world.folder_of(world.fetch()))
    assert world.hub.asked("GET", sums()["deep/weights.bin"])[-1].range == f"bytes={20 << 20}-"
    assert not list(world.cache.rglob("*.incomplete"))


def test_wrong_bytes_are_deleted_and_fetched_anew(world):
    world.hub.corrupt(BIG)
    told = world.told(world.fetch())
    for part in (REPO, "deep/weights.bin", sums()["deep/weights.bin"], "deleted", "same command again"):
        assert part in told
    assert not [p for p in world.cache.rglob("*") if p.is_file() and p.stat().st_size == len(BIG)]
    world.hub.corrupt(BIG, mended=True)
    assert is_whole(world.folder_of(world.fetch()))


def test_a_file_damaged_in_the_cache_is_found(world):
    file = world.folder_of(world.fetch()) / "tokenizer.json"
    file.resolve().write_bytes(b'{"a": 2}')
    assert "tokenizer.json: its sha256" in world.told(world.fetch())
    assert is_whole(world.folder_of(world.fetch()))


def test_a_missing_file_is_named(world):
    told = world.told(world.fetch(files={"vocab.txt": "0" * 64}))
    for part in (REPO, world.commit, "vocab.txt", "no such file", "Correct `files`"):
        assert part in told


def test_an_unknown_revision_and_an_unknown_repository_are_named(world):
    told = world.told(world.fetch(revision="f" * 40))
    assert "f" * 40 in told and "no such revision" in told and "--pin" in told
    for env in ({}, {"HF_TOKEN": "hf_other"}):
        told = world.told(world.fetch(repo="owner/nothing", env=env))
        assert "owner/nothing" in told and "no such repository" in told and "HF_TOKEN" in told
    assert "not how repositories are named" in world.told(world.fetch(repo="no name"))


@pytest.mark.parametrize("token", [None, "hf_stranger"])  # 401 and 403
def test_a_gated_repository_says_how_to_get_in(world, token):
    world.hub.gate(REPO, token="hf_friend")
    told = world.told(world.fetch(env={"HF_TOKEN": token} if token else {}))
    for part in (REPO, "gated", f"{world.hub.endpoint}/{REPO}", "HF_TOKEN"):
        assert part in told
    assert is_whole(world.folder_of(world.fetch(env={"HF_TOKEN": "hf_friend"})))
    tokens = {one.host: one.token for one in world.hub.asked("GET", sums()["deep/weights.bin"])}
    assert tokens == {"localhost": None}  # the token is the hub's alone


def test_offline_without_a_cache_says_what_to_do(world):
    told = world.told(world.fetch(env={"HF_HUB_OFFLINE": "1"}))
    for part in (REPO, "deep/weights.bin", str(world.cache), "HF_HUB_OFFLINE", "`folder`"):
        assert part in told
    assert not world.hub.requests


def test_no_hub_at_the_endpoint_says_what_to_check(world):
    told = world.told(world.fetch(env={"HF_ENDPOINT": "http://127.0.0.1:9"}))
    for part in ("http://127.0.0.1:9", "HTTPS_PROXY", "HF_ENDPOINT", "same command again"):
        assert part in told


def test_a_proxy_is_used(world):
    env = {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": world.hub.endpoint}
    assert is_whole(world.folder_of(world.fetch(env=env)))
    assert {one.host for one in world.hub.requests} == {"hub.invalid", "localhost"}
    assert all(one.proxied for one in world.hub.requests)


def test_a_local_folder_needs_no_hub(world):
    folder = world.folder / "copy"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert world.folder_of(world.fetch(folder=str(folder))) == folder
    assert "another_name" in world.told(world.fetch(folder=str(folder), files={"another_name": None}))
    (folder / "tokenizer.json").write_text("{}")
    told = world.told(world.fetch(folder=str(folder)))
    assert str(folder / "tokenizer.json") in told and sums()["tokenizer.json"] in told
    assert (folder / "tokenizer.json").read_text() == "{}"  # a user's own file is left alone
    assert not world.hub.requests


@pytest.mark.parametrize("change", [{"revision": None}, {"files": {"tokenizer.json": None}}])
def test_nothing_is_fetched_without_pins(world, change):
    told = world.told(world.fetch(**change))
    assert REPO in told and "fetch --pin" in told
    assert not world.hub.requests


def test_pin_prints_lines_that_fetch_accepts(world):
    done = world.fetch("--pin", revision=None, files=dict.fromkeys(FILES))
    assert done.returncode == 0, done.stderr
    pinned = yaml.safe_load(done.stdout)["language_model"]["text_tokenizer"]
    assert pinned == {"repo": REPO, "revision": world.commit, "files": sums()}
    assert not world.hub.asked("GET", sums()["deep/weights.bin"])  # the hub knows the checksum of large files
    assert is_whole(world.folder_of(world.fetch(**pinned)))
    told = world.told(world.fetch("--pin", files={"nothing.txt": None}))
    assert "nothing.txt" in told and "deep/weights.bin" in told


def test_models_of_benchmarks_are_pinned_and_fetched(world):
    open_source = {"repo": REPO, "files": {"tokenizer.json": None}}
    plain = yaml.safe_load(SMOKE.read_text())
    plain["benchmarks"] = {
        "geneval": {"prompts": "g.jsonl", "detector": dict(open_source), "clip": "a/folder"},
        "gap": {"judge": {"kind": "local", "cache": "c", "model": dict(open_source)}},
    }
    file = world.folder / "mine.yaml"

    def fetch(*options):
        file.write_text(yaml.safe_dump(plain))
        command = [sys.executable, "-m", "hermesflow", "fetch", "--config", str(file), *options]
        environment = world.hub.environment(world.cache)
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    assert "not all pinned" in world.told(fetch())
    pinned = yaml.safe_load(fetch("--pin").stdout)["benchmarks"]
    expected = {"repo": REPO, "revision": world.commit, "files": sums({"tokenizer.json": FILES["tokenizer.json"]})}
    assert pinned == {"geneval": {"detector": expected}, "gap": {"judge": {"model": expected}}}
    plain["benchmarks"]["geneval"]["detector"] = pinned["geneval"]["detector"]
    plain["benchmarks"]["gap"]["judge"]["model"] = pinned["gap"]["judge"]["model"]
    keys = [line.partition(": ")[0] for line in fetch().stdout.splitlines()]
    assert keys == ["benchmarks.geneval.detector", "benchmarks.gap.judge.model"]


def test_a_cache_that_takes_no_more_is_named(world):
    code = (
        "import resource, runpy, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); runpy.run_module('hermesflow', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *world.command()[3:]]
    done = subprocess.run(command, capture_output=True, text=True, env=world.hub.environment(world.cache))
    told = world.told(done)
    assert str(world.cache) in told and "cannot be stored" in told and "HF_HOME" in told


def test_the_server_serves_datasets_to_their_own_library(world, tmp_path):
    rows = "".join(f'{{"text": "row {i}"}}\n' for i in range(3)).encode()
    commit = world.hub.add("owner/rows", {"data/train.jsonl": rows, "README.md": b"# rows\n"}, kind="datasets")
    code = (
        "import sys, datasets as d; print(d.load_dataset(sys.argv[1], revision=sys.argv[2], split='train')['text'][:])"
    )
    environment = world.hub.environment(world.cache, HF_DATASETS_CACHE=str(tmp_path / "datasets"))
    command = [sys.executable, "-c", code, "owner/rows", commit]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "['row 0', 'row 1', 'row 2']", done.stderr[-2000:]


def _until(found, seconds=60):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value
