"""Grading that is killed: verdicts that are there are kept, and the end is the same."""

import json
import pkgutil

import pytest

from hermesflow.core.files import read_json
from hermesflow.stages import grade
from tests.support.benchmark_world import draw_all, make_world

SEES = {
    "geneval": ("hermesflow.evaluation.graders.geneval_detector.Detector.detect", 4, 28),
    "dpg": ("hermesflow.evaluation.graders.vqa_judge.TransformersVqa.answer", 2, 4),
    "coco": ("hermesflow.evaluation.graders.fidelity.features", 1, 3),
}
"""What sees the images, how often for the first prompt or caption, and how often for all."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    config, layout = make_world(tmp_path_factory.mktemp("kept"))
    for benchmark in SEES:
        draw_all(config, layout, benchmark)
    return config, layout


def graded(config, layout, benchmark):
    grade.run(config, layout, seed=0, checkpoint="base", benchmark=benchmark)
    folder = layout.benchmark(0, "base", benchmark)
    names = ("rows.parquet", "units.parquet", "values.json", "facts.json")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def seen(monkeypatch, request):
    """Calls of what sees the images."""
    return request.param, count_calls(monkeypatch, SEES[request.param][0])


def count_calls(monkeypatch, name):
    """Number of calls of what sees the images, and after which it dies; one prompt is a part."""
    whole, calls = pkgutil.resolve_name(name), {"made": 0, "last": None}

    def sees(*arguments, **options):
        if calls["made"] == calls["last"]:
            raise KeyboardInterrupt
        calls["made"] += 1
        return whole(*arguments, **options)

    for constant in ("benchmarks.coco._TOGETHER", "grading._PROMPTS_PER_PART"):
        monkeypatch.setattr(f"hermesflow.evaluation.{constant}", 1)
    monkeypatch.setattr(name, sees)
    return calls


@pytest.mark.parametrize("seen", SEES, indirect=True)
def test_a_killed_grading_goes_on_with_the_rest_and_ends_the_same(world, seen):
    benchmark, calls = seen
    _, first, total = SEES[benchmark]
    check_killed(*world, benchmark, calls, first, total)


def check_killed(config, layout, benchmark, calls, first, total):
    """Kill a grading after its first part, and let it go on."""
    whole = graded(config, layout, benchmark)
    assert calls["made"] == total
    calls |= {"made": 0, "last": first}
    with pytest.raises(KeyboardInterrupt):
        graded(config, layout, benchmark)
    folder = layout.benchmark(0, "base", benchmark)
    assert len(list(folder.glob("graded-*/*.parquet"))) == 1
    calls |= {"made": 0, "last": None}
    assert graded(config, layout, benchmark) == whole
    assert calls["made"] == total - first
    assert not list(folder.glob("graded-*"))


@pytest.mark.parametrize("seen", ["geneval"], indirect=True)
def test_verdicts_of_another_grader_are_not_kept(world, seen):
    """A file of the detector's folder has changed: nothing it said before is relied on."""
    config, layout = world
    _, calls = seen
    calls["last"] = 4
    with pytest.raises(KeyboardInterrupt):
        graded(config, layout, "geneval")
    path = layout.root.parent / "detector" / "config.json"
    before = path.read_text()
    path.write_text(json.dumps({**read_json(path), "transformers_version": "0"}))
    calls |= {"made": 0, "last": None}
    graded(config, layout, "geneval")
    path.write_text(before)
    assert calls["made"] == 28
