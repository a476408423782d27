"""What the plan says of models that grade and of endpoints; all numbers are of the files' published sizes, by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hermesflow.budget import graders
from hermesflow.budget.rules import Rules
from hermesflow.cli import main
from hermesflow.config.judges import LocalVlm, Prices
from hermesflow.config.load import load_config
from hermesflow.config.sections import Source
from hermesflow.evaluation.graders.inception import Inception
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import total

FILE = Path(__file__).parents[2] / "config" / "showo.yaml"
CONFIG = load_config(FILE)
LENGTHS = Lengths.of(CONFIG)
QWEN = Source(repo="Qwen/Qwen3-VL-8B-Instruct", files={"config.json": None})


def with_sections(**sections):
    return replace(CONFIG, benchmarks=replace(CONFIG.benchmarks, **sections))


def with_judge(judge):
    return with_sections(gap=replace(CONFIG.benchmarks.gap, judge=judge))


def flops(config, benchmark):
    return total(graders.grading(config, benchmark, LENGTHS).passes, "flops")


def test_geneval_by_hand():
    """553 x 4 images through the detector; of 94 + 2 x 100 kinds with a colour up to 16 objects in each of 4 images."""
    assert flops(CONFIG, "geneval") == pytest.approx(2_212 * 441.8e9 + 18_816 * 162e9)


def test_dpg_by_hand():
    assert flops(CONFIG, "dpg") == pytest.approx(1_065 * 4 * 14 * 134.7e9)


def test_dpg_by_a_chat_model():
    """The question and the image once, then nine more tokens."""
    config = with_sections(dpg=replace(CONFIG.benchmarks.dpg, judge=QWEN))
    assert flops(config, "dpg") == pytest.approx(1_065 * 4 * 14 * 2 * 8.767e9 * (256 + 128 + 9))
    assert graders.unknown(config) == []


def test_coco_by_hand():
    """CLIP on images and captions, Inception on images; 1,000 covariances of 30,000 rows of 2,048."""
    again = 1_000 * 2 * 30_000 * 2_048**2
    assert flops(CONFIG, "coco") == pytest.approx(30_000 * (162e9 + 13.1e9 + 11.4e9) + again)


def test_a_chat_model_by_hand():
    """An image of 512 pixels is 16 x 16 tokens; two FLOPs a parameter and token."""
    local = with_judge(LocalVlm(kind="local", cache="c", model=QWEN, max_new_tokens=60))
    passes = graders.grading(local, "gap", LENGTHS).passes
    asked = 1_000 * 10 * 3  # drawn image, real image, what was said
    assert [one.times for one in passes] == [asked, asked * 59]
    assert passes[1].flops == 2 * 8.767e9 and passes[1].read == 2 * 8.767e9
    half = graders.grading(local, "gap", LENGTHS).weights
    exact = with_judge(LocalVlm(kind="local", cache="c", model=QWEN, dtype="float32"))
    assert graders.grading(exact, "gap", LENGTHS).weights == 2 * half == 4 * 8.767e9


def test_grading_holds_them_beside_the_pixels():
    rules = Rules(CONFIG, LENGTHS, gpus=1)
    seen = rules.batches.pixels()[1].passes(2_212, together=1)
    load = rules.grade("geneval")
    assert total(load.passes, "flops") == pytest.approx(total(seen, "flops") + flops(CONFIG, "geneval"))
    assert load.memory > 4 * (68.7e6 + 427.6e6)


def test_figures_are_those_that_torch_counts():
    from transformers import CLIPConfig, CLIPModel

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    with torch.device("meta"), torch.inference_mode():
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config={**vision, "patch_size": 14}, projection_dim=768))
        inception = Inception().eval()
        for model, size, known in ((clip.vision_model, 224, graders.CLIP), (inception, 299, graders.INCEPTION)):
            with FlopCounterMode(display=False) as counter:
                model(torch.zeros(1, 3, size, size))
            assert counter.get_total_flops() == pytest.approx(known.flops, rel=0.005)
    for model, known in ((clip, graders.CLIP), (inception, graders.INCEPTION)):
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(known.parameters, rel=0.005)


def test_an_endpoint_is_asked_about_real_images_once():
    """1,000 pairs of 10 questions and 3 seeds: drawn and said for each seed, real once, with base."""
    bills = {name: graders.bill(CONFIG, name, LENGTHS) for name in ("base", "pair-1")}
    assert bills["base"].requests == 70_000 and bills["pair-1"].requests == 60_000


def test_an_endpoint_s_price_by_hand():
    """60 tokens an answer at 10 dollars a million; images of a million tokens at a dollar a million."""
    judge = CONFIG.benchmarks.gap.judge
    written = with_judge(replace(judge, prices=Prices(input=0.0, output=10.0, image_tokens=0)))
    assert graders.bill(written, "base", LENGTHS).dollars == pytest.approx(42)
    assert graders.bill(written, "pair-1", LENGTHS).dollars == pytest.approx(36)
    seen = with_judge(replace(judge, prices=Prices(input=1.0, output=0.0, image_tokens=1_000_000)))
    assert graders.bill(seen, "base", LENGTHS).dollars == pytest.approx(40_000, rel=0.01)
    assert graders.bill(seen, "pair-1", LENGTHS).dollars == pytest.approx(30_000, rel=0.01)


def test_a_local_judge_has_no_bill():
    assert graders.bill(with_judge(LocalVlm(kind="local", cache="c", model=QWEN)), "base", LENGTHS) is None


def test_models_that_nothing_is_known_of_are_named():
    assert graders.unknown(CONFIG) == []
    config = with_judge(LocalVlm(kind="local", cache="c", model="weights/other-vlm"))
    config = replace(config, benchmarks=replace(config.benchmarks, dpg=replace(CONFIG.benchmarks.dpg, judge="x/vilt")))
    assert graders.unknown(config) == ["x/vilt", "weights/other-vlm"]
    assert flops(config, "dpg") == flops(config, "gap") == 0


def test_the_command_says_it_all(capsys):
    assert main.main(["plan", "--config", str(FILE)]) == 0
    out = capsys.readouterr().out
    assert "Endpoint (gpt-4o-2024-08-06): at most 550,000 requests" in out  # 70,000 and 8 x 60,000
    assert "US dollars (base " in out and "18 hours at its pace" in out  # 550,000 / 500 a minute
    assert "\nbenchmark " in out
    assert main.main(["plan", "--config", str(FILE), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(one["requests"] for one in told["endpoint"].values()) == 550_000
    assert main.main(["plan", "--config", str(FILE.parent / "micro.yaml")]) == 0
    out = capsys.readouterr().out
    assert "Endpoint" not in out and "\nbenchmark " not in out
