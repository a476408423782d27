"""The plan: time, bounds, and what the command prints."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hermesflow.budget import benchmarks, table
from hermesflow.budget.disk import split_sizes
from hermesflow.budget.plan import added, by, places, plan
from hermesflow.budget.rules import Rules
from hermesflow.cli import main
from hermesflow.config.benchmarks import BENCHMARKS
from hermesflow.config.load import load_config
from hermesflow.config.sections import Stopping
from hermesflow.core.errors import ConfigError
from hermesflow.core.seeding import generator
from hermesflow.models import kernels
from hermesflow.models.costs.decoder import text_decoding
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import BANDWIDTH_UTILISATION, Pass, machine_of, total
from hermesflow.models.showo.costs.decoder import Decoder
from hermesflow.models.showo.costs.masked import expected_masked
from hermesflow.models.showo.masking import draw_mask
from hermesflow.stages import gather_candidates, sample, score
from tests.support import benchmark_world
from tests.support.selfplay_world import make_world

FOLDER = Path(__file__).parents[2] / "config"
MICRO = load_config(FOLDER / "micro.yaml")
H100, A100 = machine_of("1xh100"), machine_of("8xa100")


def paper_config():
    """Sizes of the paper on the micro config's rules."""
    tokenizer = replace(
        MICRO.image_tokenizer,
        channels=128,
        encoder_multipliers=(1, 2, 2, 4, 4),
        encoder_blocks=(4, 3, 4, 3, 4),
        decoder_multipliers=(1, 1, 2, 2, 4),
        decoder_blocks=(4, 4, 3, 4, 3),
        codebook_bits=13,
        patch_size=1,
        kernel_size=3,
        tile_size=0,
    )
    model = replace(
        MICRO.language_model,
        hidden_size=2048,
        layers=24,
        heads=32,
        intermediate_size=8192,
        text_tokenizer="phi",
        max_text_tokens=128,
    )
    return replace(
        MICRO,
        data=replace(MICRO.data, image_size=512, pairs=5000),
        image_tokenizer=tokenizer,
        language_model=model,
        sampling=replace(MICRO.sampling, images=replace(MICRO.sampling.images, n=16, steps=50, guidance=5.0)),
        training=replace(MICRO.training, steps=3000, batch_size=32),
        runtime=replace(MICRO.runtime, device="cuda", precision="bf16", shards=8),
        seeds=(0, 1, 2),
    )


def lines_of(config, machine=H100, utilisation=0.4):
    return plan(config, machine, lengths=Lengths.of(config), utilisation=utilisation)


def test_a_pass_takes_the_longer_of_arithmetic_and_reading():
    options = {"precision": "bf16", "utilisation": 0.5}
    assert Pass(2, flops=989e12, read=0).seconds(H100.gpu, **options) == pytest.approx(4)
    assert Pass(1, flops=0, read=3.35e12).seconds(H100.gpu, **options) == pytest.approx(1 / BANDWIDTH_UTILISATION)


def test_writing_is_bound_by_memory():
    decoder = Decoder.of(paper_config())
    passes = text_decoding(decoder, images=1, prompts=1, prompt_length=10, rows=1, tokens=100, size=2)
    slow = {"precision": "bf16", "utilisation": 0.4}
    assert passes[1].seconds(H100.gpu, **slow) == passes[1].seconds(H100.gpu, **{**slow, "utilisation": 0.01})


@pytest.mark.parametrize("schedule", ["cosine", "square_root"])
def test_expected_masked_tokens_are_those_of_drawn_masks(schedule):
    draw = generator("budget", schedule)
    drawn = [int(draw_mask(256, draw, schedule=schedule).sum()) for _ in range(2000)]
    assert expected_masked(schedule, tokens=256) == pytest.approx(sum(drawn) / 2000, rel=0.03)


def test_best_of_n_fine_tuning_costs_what_pair_dpo_costs_and_shares_its_reference():
    tree = {"pair-1": MICRO.checkpoints["pair-1"], "sft-1": replace(MICRO.checkpoints["pair-1"], objective="chosen")}
    lines = {(line.rule, line.checkpoint): line for line in lines_of(replace(MICRO, checkpoints=tree))}
    pair, best = lines["train", "pair-1"], lines["train", "sft-1"]
    assert (best.flops, best.memory, best.disk) == (pair.flops, pair.memory, pair.disk) and best.flops
    assert ("reference", "pair-1") in lines and ("reference", "sft-1") not in lines


def test_masks_that_hide_more_cost_more():
    entry = MICRO.checkpoints["pair-1"]
    tree = {"pair-1": entry, "high-1": replace(entry, mask_ratios=(0.85, 1.0))}
    lines = {(line.rule, line.checkpoint): line for line in lines_of(replace(MICRO, checkpoints=tree))}
    for rule in ("reference", "train"):
        assert lines[rule, "high-1"].flops > lines[rule, "pair-1"].flops


def test_stages_do_at_most_what_is_planned(tmp_path, monkeypatch):
    """Texts are shorter than their maxima, and equal ones are scored once; the measure and method need no encoder."""
    config, layout = make_world(tmp_path)
    config = replace(config, scoring=replace(config.scoring, caption_measure="bleu", vqa_method="probability"))
    rules = Rules(config, Lengths.of(config), gpus=1)
    monkeypatch.setattr(kernels, "by_onednn", lambda x: False)  # its products are not counted

    def counted(stage):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            stage.run(config, layout, seed=0, checkpoint="base")
        return counter.get_total_flops()

    sampled = counted(sample)
    assert sampled <= total(rules.sample().passes, "flops") < 1.5 * sampled
    gather_candidates.run(config, layout, seed=0, checkpoint="base", shards=1)
    scored = counted(score)
    assert scored <= total(rules.score().passes, "flops") < 10 * scored


def test_drawing_for_benchmarks_does_at_most_what_is_planned(tmp_path, monkeypatch):
    config, layout = benchmark_world.make_world(tmp_path)
    own = config.benchmarks
    config = replace(config, benchmarks=replace(own, dpg=None, coco=None, gap=None, understanding=None))
    one = replace(BENCHMARKS["geneval"], prompts=len(benchmark_world.GENEVAL))
    monkeypatch.setitem(BENCHMARKS, "geneval", one)
    monkeypatch.setattr(kernels, "by_onednn", lambda x: False)  # its products are not counted
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        benchmark_world.draw_all(config, layout, "geneval")
    drawn = counter.get_total_flops()
    assert drawn <= total(Rules(config, Lengths.of(config), gpus=1).draw("geneval").passes, "flops") < 2 * drawn


def test_benchmarks_are_counted_for_every_checkpoint_and_seed():
    config = load_config(FOLDER / "showo.yaml")
    jobs = Counter()
    for place in places(config):
        jobs[place.rule] += place.jobs
    assert jobs["draw"] == 3 * 9 * (3 + 8) and jobs["grade"] == 3 * 9 * 4 and jobs["understand"] == 3 * 9 * 6
    lines = [line for line in lines_of(config) if line.rule in ("draw", "grade", "understand")]
    assert len(lines) == 9 * (4 + 4 + 6) and all(line.flops > 0 and line.gpu_hours > 0 for line in lines)


def test_images_of_benchmarks_cost_what_as_many_candidates_do():
    """FLOPs per image: COCO's, each with a prompt of its own, against one candidate for each of a batch of prompts."""
    config = load_config(FOLDER / "showo.yaml")
    one = replace(config.sampling.images, n=1)
    coco = replace(config.benchmarks, geneval=None, dpg=None, gap=None, understanding=None)
    config = replace(config, benchmarks=coco, sampling=replace(config.sampling, images=one, batch_pairs=250))
    rules = Rules(config, Lengths.of(config), gpus=1)
    passes, _ = rules.batches.generated(250, 250)
    assert total(rules.draw("coco").passes, "flops") / 30_000 == pytest.approx(total(passes, "flops") / 250)


def test_genevals_own_prompts_are_generated_in_the_pictures_world_alone():
    """An image more of every prompt costs what 399 images cost: six kinds of 30, 40 dense, 179 of GenEval's own."""
    pictures = load_config(FOLDER / "pictures.yaml")
    settings = pictures.evaluation

    def flops(**values):
        config = replace(pictures, evaluation=replace(settings, **values))
        return total(Rules(config, Lengths.of(config), gpus=1).evaluate().passes, "flops")

    an_image_each, a_prompt_each = flops(geneval_images=3) - flops(), flops(geneval_prompts=31) - flops()
    assert an_image_each / a_prompt_each == pytest.approx(399 / (6 * 2))
    assert split_sizes(pictures)["prompts"] == 399
    assert split_sizes(MICRO)["prompts"] == MICRO.evaluation.geneval_prompts * 6 + MICRO.evaluation.dense_prompts


def test_checks_of_a_training_cost_their_images():
    """80 steps checked after every 30 and after the last: three times 70 images, beside what 399 more take."""
    pictures = load_config(FOLDER / "pictures.yaml")
    checked = Stopping(every=30, patience=1, prompts=70)
    stopped = replace(pictures, training=replace(pictures.training, stopping=checked))
    twice = replace(pictures, evaluation=replace(pictures.evaluation, geneval_images=3))
    of = {
        name: Rules(one, Lengths.of(one), gpus=1) for name, one in (("", pictures), ("stop", stopped), ("more", twice))
    }
    checks = total(of["stop"].train("pair-1").passes, "flops") - total(of[""].train("pair-1").passes, "flops")
    image = (total(of["more"].evaluate().passes, "flops") - total(of[""].evaluate().passes, "flops")) / 399
    pixels = total(of[""].batches.pixels()[1].passes(1, together=1), "flops")
    assert checks == pytest.approx(210 * (image - pixels), rel=0.01)


def test_questions_of_benchmarks_are_those_published():
    config = load_config(FOLDER / "showo.yaml")
    # POPE, MME, Flickr30k, its Karpathy split, VQAv2 val and test, GQA, MMMU
    assert sum(t.questions for t in benchmarks.tasks_of(config)) == (
        3 * 3_000 + 2_374 + 31_783 + 1_000 + 214_354 + 447_793 + 12_578 + 900
    )
    understanding = replace(config.benchmarks.understanding, columns=("flickr30k",), karpathy=None)
    other = replace(config, benchmarks=replace(config.benchmarks, understanding=understanding))
    assert [t.questions for t in benchmarks.tasks_of(other)] == [31_783]
    understanding = replace(config.benchmarks.understanding, columns=("vqav2",), vqav2_submission=False)
    other = replace(config, benchmarks=replace(config.benchmarks, understanding=understanding))
    assert [t.questions for t in benchmarks.tasks_of(other)] == [214_354]
    assert benchmarks.tasks_of(MICRO) == [] and benchmarks.drawings(MICRO) == {}


def test_the_plan_says_how_large_benchmarks_are(capsys):
    assert main.main(["plan", "--config", str(FOLDER / "showo.yaml")]) == 0
    out = capsys.readouterr().out
    assert "geneval 2,212 images, dpg 4,260 images, coco 30,000 images, gap 1,000 images" in out
    assert "all of them are counted" in out and "understanding 719,782 questions in 10 tasks" in out
    assert main.main(["plan", "--config", str(FOLDER / "micro.yaml")]) == 0
    assert "benchmarks are of their published sizes" not in capsys.readouterr().out


def test_benchmarks_add_up_to_the_rules_that_measure_them():
    lines = lines_of(load_config(FOLDER / "showo.yaml"))
    of_rules = [line for line in by("rule", lines) if line.rule in ("draw", "gather_drawn", "grade", "understand")]
    named = by("benchmark", lines)
    assert [line.rule for line in named] == [
        *("geneval", "dpg", "coco", "gap"),
        *("pope", "mme", "flickr30k", "vqav2", "gqa", "mmmu"),
    ]
    assert sum(line.jobs for line in named) == sum(line.jobs for line in of_rules) == 3 * 9 * (11 + 4 + 4 + 6)
    assert sum(line.flops for line in named) == pytest.approx(sum(line.flops for line in of_rules))


def test_training_takes_the_gpus_that_can_share_its_batch():
    rules = Rules(MICRO, Lengths.of(MICRO), gpus=8)
    assert rules.processes(MICRO.training) == 8
    assert rules.processes(replace(MICRO.training, batch_size=6)) == 6
    assert rules.micro_batch(MICRO.training) == 4


def test_the_paper_on_paper():
    lines = lines_of(paper_config(), A100)
    by_rule = {line.rule: line for line in lines if line.checkpoint in (None, "pair-1")}
    # a round of one seed: 80,000 images (and up to 90,000 captions); shards go when they are gathered
    assert (by_rule["sample"].disk + by_rule["gather_candidates"].disk) / 3 < 210e6
    assert by_rule["sample"].transient < 210e6
    assert max(by_rule[rule].memory for rule in ("sample", "score", "evaluate")) < 80e9
    assert max(line.files for line in lines) <= 1000
    assert by_rule["train"].memory < 80e9
    assert 3 < by_rule["train"].flops / by_rule["reference"].flops < 3.1  # logits are made twice


def test_hours_fall_with_utilisation_and_nothing_else_does():
    slow, fast = (added(lines_of(paper_config(), utilisation=u), name="all") for u in (0.2, 0.4))
    assert slow.gpu_hours > 1.5 * fast.gpu_hours
    assert slow.flops == fast.flops
    assert slow.memory == fast.memory


def test_own_figures_take_the_place_of_the_data_sheets():
    (machine,) = table.machines_of(["2xa100"], tflops=[100.0, 10.0], memory=40.0, bandwidth=1.5)
    assert machine.gpus == 2
    assert machine.gpu.flops["bf16"] == 100e12
    assert machine.gpu.flops["no"] == 10e12
    assert (machine.gpu.memory, machine.gpu.bandwidth) == (40e9, 1.5e12)
    with pytest.raises(ConfigError, match="h100"):
        machine_of("v100")


def test_the_command_prints_every_rule_and_what_it_assumed(capsys):
    assert main.main(["plan", "--config", str(FOLDER / "smoke.yaml"), "--questions", "5"]) == 0
    told = capsys.readouterr().out
    for rule in ("tokenizer", "sample", "score", "train", "evaluate"):
        assert rule in told
    assert "1 x H100 SXM" in told
    assert "8 x A100" in told
    assert "5 questions" in told
    assert "float32" in told


def test_json_adds_up(capsys):
    assert main.main(["plan", "--config", str(FOLDER / "smoke.yaml"), "--json", "--machines", "1xa100"]) == 0
    told = json.loads(capsys.readouterr().out)
    (machine,) = told["machines"].values()
    assert {line["checkpoint"] for line in machine["lines"]} >= {"base", "pair-1", None}
    assert sum(line["flops"] for line in machine["lines"]) == pytest.approx(machine["total"]["flops"])


def test_a_utilisation_is_a_share(capsys):
    assert main.main(["plan", "--config", str(FOLDER / "smoke.yaml"), "--utilisation", "40"]) == 1
    assert "--utilisation" in capsys.readouterr().err


def test_what_does_not_fit_is_told():
    text = table.as_text(paper_config(), [H100], lengths=Lengths.of(paper_config()), utilisation=0.4)
    assert "does not fit: train" in text
