"""The rules without running them: what they list, what they refuse, and dvc.yaml as their mirror."""

import json
import re
import sys
from collections import Counter
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

from hermesflow.cli.dvc import FOLDER, GATHERED_BY, MIRROR, dvc_files, is_mirror, mirrored_stages, stages_of
from hermesflow.cli.main import LAUNCHED, STAGES
from hermesflow.config.benchmarks import BENCHMARKS as REGISTERED
from hermesflow.config.benchmarks import COLUMNS, IMAGE_BENCHMARKS
from hermesflow.config.digests import step_digests
from hermesflow.config.load import load_config
from tests.evaluation.test_benchmark_seam import example

from .conftest import REPOSITORY

RULES = REPOSITORY / "workflow" / "rules"
SHOWO = REPOSITORY / "config" / "showo.yaml"
BENCHMARKS = {"draw", "gather_drawn", "grade", "understand"}


def blocks():
    """The text of every rule but `all`, by name."""
    found = {}
    for path in RULES.glob("*.smk"):
        for text in re.split(r"\n(?=rule )", path.read_text()):
            if match := re.match(r"rule (\w+):", text):
                found[match[1]] = text
    return found


@pytest.fixture(scope="module")
def jobs(fresh):
    out = fresh.run(sys.executable, "workflow/scripts/jobs.py", "config/tiny.yaml")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def test_every_stage_is_a_rule_and_every_rule_a_stage():
    assert set(blocks()) == set(STAGES)


@pytest.mark.parametrize("rule", STAGES)
def test_a_rule_says_all_it_should(rule):
    text = blocks()[rule]
    for keyword in ("output", "log", "params", "threads", "resources", "message", "shell"):
        assert f"\n    {keyword}:" in text, keyword
    for resource in ("mem_mb=", "runtime=", "gpu="):
        assert resource in text
    assert f'settings=settings("{rule}")' in text
    assert f'code=code("{rule}")' in text
    assert f"{{{'LAUNCH' if rule in LAUNCHED else 'STEP'}}} {rule} --config" in text


def test_rule_files_stay_short():
    long = {path.name: n for path in RULES.glob("*.smk") if (n := len(path.read_text().splitlines())) >= 100}
    assert not long


def test_iterations_chain_through_their_parents(jobs):
    by = {(job["rule"], job["wildcards"].get("checkpoint")): job for job in jobs}
    first, second = (set(by["prefer", name]["input"]) for name in ("pair-1", "pair-2"))
    folder = "results/tiny/seed0"
    assert f"{folder}/base/scores/captions.parquet" in first
    assert not [path for path in first if "/preferences/" in path]
    assert f"{folder}/pair-1/scores/captions.parquet" in second
    assert f"{folder}/pair-1/preferences/images.parquet" in second
    assert f"{folder}/pair-1/model/model.safetensors" in by["train", "pair-2"]["input"]


def test_only_parents_are_sampled_and_all_are_evaluated(jobs):
    made = {(job["rule"], job["wildcards"].get("checkpoint")) for job in jobs}
    assert {c for rule, c in made if rule == "sample"} == {"base", "pair-1"}
    assert {c for rule, c in made if rule == "evaluate"} == {"base", "pair-1", "pair-2"}


def test_bare_snakemake_runs_the_pictures_config(fresh):
    assert re.search(r"report +1", fresh.run("snakemake", "--dry-run", "--quiet", "rules"))
    assert "results/pictures/report/answer.md" in fresh.run("snakemake", "--summary")


@pytest.mark.parametrize(
    ("runtime", "command"),
    [
        ({}, " -m hermesflow train "),
        ({"train_processes": 2, "accelerate": "config/accelerate/ddp.yaml"}, " -m hermesflow launch train "),
        (
            {
                "train_nodes": 2,
                "train_processes": 3,
                "accelerate": "config/accelerate/multi_node.yaml",
                "device": "cuda",
            },
            "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=3 ",
        ),
    ],
)
def test_training_is_launched_where_it_is_shared(fresh, runtime, command):
    plain = yaml.safe_load(fresh.config.read_text())
    plain["runtime"] |= runtime
    other = fresh.root / "config" / "shared.yaml"
    other.write_text(yaml.safe_dump(plain))
    out = fresh.run("snakemake", "--dry-run", "--printshellcmds", "--configfile", str(other), "--cores", "4")
    (job,) = re.findall(r"Pair-DPO: train pair-1 \(seed 0\)\nShell command: (.*)\n", out)
    assert command in job
    assert (" launch train --config config/shared.yaml --threads 1 " in job) == bool(runtime)


def test_a_training_that_is_stopped_early_waits_for_what_it_is_judged_by(fresh):
    plain = yaml.safe_load(fresh.config.read_text())
    plain["checkpoints"]["pair-1"]["stopping"] = {"every": 2, "patience": 1, "prompts": 5}
    other = fresh.root / "config" / "stopped.yaml"
    other.write_text(yaml.safe_dump(plain))
    out = fresh.run(sys.executable, "workflow/scripts/jobs.py", str(other))
    jobs = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    inputs = {job["wildcards"]["checkpoint"]: set(job["input"]) for job in jobs if job["rule"] == "train"}
    root = f"results/{plain['name']}"
    own = {f"{root}/data/understanding.parquet", f"{root}/data/prompts.parquet"}
    own |= {f"{root}/tokenizer/model.safetensors", f"{root}/tokenizer/config.json"}
    assert own <= inputs.pop("pair-1") and inputs and not any(own & others for others in inputs.values())


def test_the_paper_s_scale_is_the_whole_dag_and_trains_through_accelerate(fresh):
    config = ("--configfile", "config/showo.yaml", "--cores", "64")
    out = fresh.run("snakemake", "--dry-run", "--printshellcmds", *config)
    assert " -m hermesflow launch train --config config/showo.yaml" in out
    counts = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", out, re.MULTILINE)}
    once = dict.fromkeys(("data", "tokenizer", "encode", "judge", "report"), 1)
    sampled = {"sample": 3 * 3 * 8, "gather_candidates": 3 * 3, "score": 3 * 3 * 8, "gather_scores": 3 * 3}
    trained = {**dict.fromkeys(("prefer", "train"), 3 * 8), "reference": 3 * 6}  # und-1 and gen-1 have that of pair-1
    expected = {**once, "base": 3, **sampled, "agreement": 3, **trained, "evaluate": 3 * 9, "all": 1}
    each = 3 * 9 * 4  # geneval, dpg, coco, gap; COCO's images are drawn in 8 shards
    expected |= {"draw": 3 * 9 * (3 + 8), "gather_drawn": each, "grade": each}
    expected["understand"] = 3 * 9 * len(COLUMNS)
    assert counts == {**expected, "total": sum(expected.values())}


def test_another_backbone_or_world_has_the_jobs_of_the_config_that_it_extends(fresh):
    """These change no stage; their jobs read the keys that they change."""

    def jobs(name):
        out = fresh.run(sys.executable, "workflow/scripts/jobs.py", f"config/{name}.yaml")
        return Counter(json.loads(line)["rule"] for line in out.splitlines() if line.startswith("{"))

    counts = jobs("pictures")
    assert counts["train"] > 4
    assert counts == jobs("pictures-janus") == jobs("pictures-emu3") == jobs("pictures-hard")


@pytest.fixture(scope="module")
def paper_jobs(fresh):
    out = fresh.run(sys.executable, "workflow/scripts/jobs.py", "config/showo.yaml")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def test_the_paper_s_scale_has_every_benchmark_of_every_checkpoint_and_seed(paper_jobs):
    config = load_config(SHOWO)
    expected = {
        f"results/showo/seed{seed}/{checkpoint}/benchmarks/{benchmark}/{name}"
        for seed in (0, 1, 2)
        for checkpoint in ("base", *config.checkpoints)
        for benchmark in ("geneval", "dpg", "coco", "gap", "pope", "mme", "flickr30k", "vqav2", "gqa", "mmmu")
        for name in ("units.parquet", "values.json", "facts.json")
    }
    (report,) = [job for job in paper_jobs if job["rule"] == "report"]
    assert len(expected) == 3 * 9 * 10 * 3
    assert {path for path in report["input"] if "/benchmarks/" in path} == expected
    made = {path for job in paper_jobs if job["rule"] in ("grade", "understand") for path in job["output"]}
    assert expected < made


def test_a_benchmark_with_a_table_of_its_own_is_generated_graded_and_reported(fresh, paper_jobs):
    names = [name for name in IMAGE_BENCHMARKS if REGISTERED[name].table]
    assert names
    (without,) = [job for job in paper_jobs if job["rule"] == "report"]
    for benchmark in names:
        plain = yaml.safe_load(SHOWO.read_text())
        required = [one.name for one in fields(REGISTERED[benchmark].section) if one.default is MISSING]
        plain |= {"seeds": [0], "benchmarks": {benchmark: dict.fromkeys(required, "file")}}
        (fresh.root / "config" / "extra.yaml").write_text(yaml.safe_dump(plain))
        out = fresh.run(sys.executable, "workflow/scripts/jobs.py", "config/extra.yaml")
        jobs = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        checkpoints = ("base", *plain["checkpoints"])
        made = sorted((j["rule"], j["wildcards"]["checkpoint"]) for j in jobs if j["wildcards"].get("benchmark"))
        assert made == sorted((rule, name) for rule in ("draw", "gather_drawn", "grade") for name in checkpoints)
        of_report = {job["rule"]: job for job in jobs}["report"]
        read = ("units.parquet", "values.json", "facts.json")
        files = {f"results/showo/seed0/{name}/benchmarks/{benchmark}/{file}" for name in checkpoints for file in read}
        assert files == {path for path in of_report["input"] if "/benchmarks/" in path}
        table = REGISTERED[benchmark].table
        tables = {f"results/showo/report/tables/{table.name}.{suffix}" for suffix in ("csv", "md", "tex")}
        assert set(of_report["output"]) - set(without["output"]) == tables
        caption = fresh.root / ".snakemake" / "captions" / f"{table.name}.rst"
        assert caption.read_text() == f"{table.caption}\n"


def test_one_more_module_is_one_more_benchmark(fresh):
    """The module of docs/benchmarks.md, switched on in a config of the micro world."""
    module = fresh.root / "src" / "hermesflow" / "evaluation" / "benchmarks" / "hues.py"
    module.write_text(example())
    plain = yaml.safe_load(fresh.config.read_text()) | {"benchmarks": {"hues": {"prompts": "hues.jsonl"}}}
    (fresh.root / "config" / "hues.yaml").write_text(yaml.safe_dump(plain))
    out = fresh.run(sys.executable, "workflow/scripts/jobs.py", "config/hues.yaml")
    module.unlink()
    jobs = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    rules = {job["rule"] for job in jobs if job["wildcards"].get("benchmark") == "hues"}
    assert rules == {"draw", "gather_drawn", "grade"}
    (report,) = [job for job in jobs if job["rule"] == "report"]
    assert {Path(path).name for path in report["output"] if "hues" in path} == {
        "table_hues.csv",
        "table_hues.md",
        "table_hues.tex",
    }


def test_the_file_of_prompts_is_an_input_where_it_is_there(fresh):
    plain = yaml.safe_load(SHOWO.read_text())
    plain |= {"seeds": [0], "checkpoints": {}, "benchmarks": {"geneval": plain["benchmarks"]["geneval"]}}
    (fresh.root / "config" / "prompts.yaml").write_text(yaml.safe_dump(plain))
    prompts = fresh.root / "data" / "geneval" / "evaluation_metadata.jsonl"
    prompts.parent.mkdir(parents=True)
    prompts.write_text("")
    out = fresh.run(sys.executable, "workflow/scripts/jobs.py", "config/prompts.yaml")
    prompts.unlink()
    jobs = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    readers = {
        (job["rule"], job["wildcards"]["benchmark"])
        for job in jobs
        if "data/geneval/evaluation_metadata.jsonl" in job["input"]
    }
    assert readers == {(rule, "geneval") for rule in ("draw", "gather_drawn", "grade")}


def test_a_benchmark_is_a_stage_of_dvc_with_its_own_digest_alone(paper_jobs):
    config = load_config(SHOWO)
    of_benchmarks = [job for job in paper_jobs if job["rule"] in BENCHMARKS]
    files = stages_of(of_benchmarks, config, SHOWO)
    assert set(files) == {FOLDER / f"seed{s}" / c / MIRROR for s in (0, 1, 2) for c in ("base", *config.checkpoints)}
    stages = files[FOLDER / "seed1" / "pair-2" / MIRROR]
    drawn = stages["gather_drawn-coco"]
    assert "--allowed-rules draw gather_drawn -- results/showo/seed1/pair-2/benchmarks/coco/" in drawn["cmd"]
    assert drawn["params"] == [{"results/showo/digests.json": ["draw-pair-2-coco", "gather_drawn-pair-2-coco"]}]
    assert stages["grade-gap"]["params"] == [{"results/showo/digests.json": ["grade-pair-2-gap"]}]
    assert "results/showo/seed1/pair-2/benchmarks/vqav2/lmms" in stages["understand-vqav2"]["outs"]


def test_one_job_at_a_time_asks_the_judge():
    for name in ("default", "slurm"):
        profile = yaml.safe_load((REPOSITORY / "workflow" / "profiles" / name / "config.yaml").read_text())
        assert profile["resources"] == ["judge=1"]
    assert "judge=lambda w: int(BENCHMARKS[w.benchmark].one_at_a_time)" in blocks()["grade"]
    assert [name for name, one in REGISTERED.items() if name in IMAGE_BENCHMARKS and one.one_at_a_time] == ["gap"]


def test_seeds_alone_can_be_overridden(fresh):
    assert re.search(r"\nbase +2\n", fresh.snakemake("--dry-run", "--config", "seeds=[0,3]"))
    out = fresh.snakemake("--dry-run", "--config", "name=other", check=False)
    assert "only `seeds` can be set there" in out


def test_an_unknown_key_stops_the_run_before_it_starts(fresh):
    wrong = fresh.root / "config" / "wrong.yaml"
    wrong.write_text(fresh.config.read_text() + "colour: red\n")
    out = fresh.run("snakemake", "--dry-run", "--configfile", "config/wrong.yaml", check=False)
    assert "unknown key `colour`" in out
    assert "wrong.yaml" in out


def test_real_benchmarks_of_the_micro_world_are_refused_at_once(fresh):
    """They have the names of the micro world's own figures: the report would find out after all the work."""
    wrong = fresh.root / "config" / "twice.yaml"
    wrong.write_text(fresh.config.read_text() + "benchmarks: {understanding: {batch_size: 2}}\n")
    out = fresh.run("snakemake", "--dry-run", "--configfile", "config/twice.yaml", check=False)
    assert "twice.yaml: benchmarks.understanding: with data.source microworld" in out and "Remove the section" in out


def test_two_config_files_are_refused(fresh):
    out = fresh.run("snakemake", "-n", "--configfile", "config/smoke.yaml", "config/tiny.yaml", check=False)
    assert "Pass one --configfile" in out


def test_lint_finds_nothing_but_what_is_meant(fresh):
    out = fresh.snakemake("--lint", check=False)
    found = {line.strip() for line in out.splitlines() if line.startswith("    * ")}
    # Where Python and the config file lie is no reason to run again.
    meant = tuple(f"variable {name} from" for name in ("STEP", "LAUNCH", "CONFIG", "CONFIG_FILE", "SHARDS"))
    assert not [line for line in found if not any(words in line for words in meant)]


def test_committed_dvc_files_are_generated_from_the_rules(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    path = REPOSITORY / "config" / "pictures-paper.yaml"
    files = dvc_files(path)
    committed = {file: file.read_text() for file in (MIRROR, *FOLDER.rglob(MIRROR.name))}
    assert committed == files, "run `make dvc`"
    assert is_mirror(MIRROR, path, [0, 1, 2])
    assert not is_mirror(MIRROR, REPOSITORY / "config" / "smoke.yaml", [0])
    assert not is_mirror(MIRROR, path, [0])


def test_a_demo_makes_all_stages_of_its_seed_but_the_report(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    source, targets = mirrored_stages(REPOSITORY / "config" / "pictures.yaml", [0])
    assert source == Path("config/pictures-paper.yaml")
    assert {f"{MIRROR}:tokenizer", f"{FOLDER}/seed0/pair-3/{MIRROR}:evaluate"} <= set(targets)
    assert f"{MIRROR}:report" not in targets and not [t for t in targets if "seed1" in t or "pair-nll" in t]
    assert mirrored_stages(REPOSITORY / "config" / "smoke.yaml", [0]) is None


@pytest.fixture(scope="module")
def mirror(fresh):
    """The clone with DVC files of its config, made where another config had left files."""
    stale = fresh.root / FOLDER / "seed7" / "pair-9" / MIRROR
    current = fresh.root / FOLDER / "seed0" / "pair-1" / "dvc.lock"
    for path in (stale, stale.with_suffix(".lock"), current):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    fresh.run(sys.executable, "-m", "hermesflow", "dvc", "--config", "config/tiny.yaml")
    return fresh


def test_files_of_other_checkpoints_are_removed(mirror):
    assert not list((mirror.root / FOLDER / "seed7").rglob("dvc.*"))
    assert (mirror.root / FOLDER / "seed0" / "pair-1" / "dvc.lock").exists()


def test_every_rule_has_its_dvc_stage_with_the_same_files(mirror, jobs):
    stages = mirrored(mirror)
    assert stages.pop((MIRROR, "digests"))["outs"] == ["results/tiny/digests.json"]
    kept = [job for job in jobs if job["rule"] not in {"all", *GATHERED_BY}]
    names = [(file_of(job), "-".join([job["rule"], *filter(None, [job["wildcards"].get("variant")])])) for job in kept]
    assert sorted(stages) == sorted(names)
    steps = step_digests(load_config(mirror.config))
    for name, job in zip(names, kept, strict=True):
        stage = stages[name]
        assert (mirror.root / name[0].parent / stage.get("wdir", "")).resolve() == mirror.root
        assert sorted([*stage["outs"], *stage.get("metrics", [])]) == job["output"]
        assert {path for path in job["input"] if "/shards/" not in path} <= set(stage.get("deps", []))
        assert not [path for path in stage.get("deps", []) if path.startswith("src/")]
        ((file, digests),) = stage["params"][0].items()
        assert file == "results/tiny/digests.json" and set(digests) <= steps.keys()
        assert {digest.removesuffix(f"-{job['wildcards'].get('checkpoint')}") for digest in digests} == {
            job["rule"],
            *(rule for rule, gathering in GATHERED_BY.items() if gathering == job["rule"]),
        }
    assert not [path for stage in stages.values() for path in stage["outs"] if "/shards/" in path]


def mirrored(clone):
    """The DVC stages of a clone, by file and name."""
    files = [MIRROR, *(path.relative_to(clone.root) for path in (clone.root / FOLDER).rglob(MIRROR.name))]
    texts = {file: yaml.safe_load((clone.root / file).read_text())["stages"] for file in files}
    return {(file, name): stage for file, stages in texts.items() for name, stage in stages.items()}


def file_of(job):
    """Where the stage of a job is to be."""
    seed, checkpoint = job["wildcards"].get("seed"), job["wildcards"].get("checkpoint", "base")
    return FOLDER / f"seed{seed}" / checkpoint / MIRROR if seed else MIRROR


def test_dvc_refuses_a_mirror_of_another_tree(mirror):
    text = mirror.config.read_text()
    try:
        mirror.config.write_text(text.replace("parent: pair-1", "parent: base"))
        out = mirror.run("env", "DVC_STAGE=x", "snakemake", "-n", "--configfile", "config/tiny.yaml", check=False)
    finally:
        mirror.config.write_text(text)
    assert "another tree of checkpoints" in out


def test_dvc_refuses_steps_of_code_that_was_changed_meanwhile(mirror):
    digests = ("digests", "--config", "config/tiny.yaml", "--steps", "results/tiny/digests.json")
    mirror.run(sys.executable, "-m", "hermesflow", *digests)
    command = ("env", "DVC_STAGE=x", "snakemake", "-n", "--configfile", "config/tiny.yaml")
    mirror.run(*command)
    losses = mirror.root / "src" / "hermesflow" / "training" / "losses.py"
    text = losses.read_text()
    losses.write_text(f"{text}\nCHANGED = 1\n")
    out = mirror.run(*command, check=False)
    losses.write_text(text)
    assert "results/tiny/digests.json: is of other code or settings" in out


def test_real_images_add_no_rule_but_the_files_another_site_needs(fresh):
    plain = yaml.safe_load(fresh.config.read_text())
    own = {"source": "journeydb", "path": "JourneyDB/JourneyDB", "selection": "config/theirs.json", "base_pairs": 10}
    plain["data"] = {key: value for key, value in plain["data"].items() if key != "source"} | own
    plain["language_model"]["text_tokenizer"] = "trained"
    plain["scoring"]["agreement_pairs"] = 0
    (fresh.root / "config" / "theirs.json").write_text("{}")
    (fresh.root / "config" / "real.yaml").write_text(yaml.safe_dump(plain))
    out = fresh.run(sys.executable, "workflow/scripts/jobs.py", "config/real.yaml")
    jobs = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert {job["rule"] for job in jobs} == {"all", *STAGES} - {
        "clip"
    } - BENCHMARKS  # the extractor is the micro world's
    (data,) = [job for job in jobs if job["rule"] == "data"]
    assert data["input"] == ["config/theirs.json"]
    folder = "results/tiny/data"
    assert {f"{folder}/selection.json", f"{folder}/questions.csv"} <= set(data["output"])
