"""The answer in words follows from the intervals, and says so when a claim does not hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hermesflow.config.sections import Stopping
from hermesflow.core.errors import ConfigError
from hermesflow.data.worlds.world import world_of
from hermesflow.report.answer import TOLERANCE, answer, claims, summary_of, verdict_above, verdict_below
from hermesflow.report.lookup import Figures
from tests.support.report_world import GAPS, make_summary, micro, pictures, pictures_summary


@pytest.mark.parametrize(
    ("low", "high", "below", "above"),
    [(-0.3, -0.1, "yes", "no"), (0.1, 0.3, "no", "yes"), (-0.1, 0.1, "open", "open"), (0.0, 0.1, "open", "open")],
)
def test_verdict_wants_the_whole_interval_on_one_side(low, high, below, above):
    assert verdict_below(low, high, 0.0) == below
    assert verdict_above(low, high, 0.0) == above


def verdicts(summary, checkpoint="pair-3", protocol="same-judge"):
    return {c.claim: c.verdict for c in claims(Figures(summary), checkpoint) if c.protocol == protocol}


def test_the_paper_holds():
    found = verdicts(make_summary(half_width=0.005))
    assert found == {
        "the gap narrowed": "yes",
        "generation rose": "yes",
        "understanding held": "yes",
        "understanding rose": "open",
    }


def test_the_paper_does_not_hold():
    summary = make_summary({**GAPS, "pair-3": (0.80, 0.60)})
    assert verdicts(summary) == {
        "the gap narrowed": "no",
        "generation rose": "no",
        "understanding held": "no",
        "understanding rose": "no",
    }
    text = answer(summary, micro())
    assert text.count("does not hold here") == 8
    assert "no: not with `pair-3`" in text


def test_a_wide_interval_shows_nothing():
    text = answer(make_summary(half_width=0.5), micro())
    assert text.count("Not shown.") == 8 and "Yes." not in text and "No." not in text


def test_held_is_up_to_the_tolerance():
    base = GAPS["base"]
    just = make_summary({**GAPS, "pair-3": (base[0] - TOLERANCE + 0.003, base[1])}, half_width=0.002)
    assert verdicts(just)["understanding held"] == "yes"
    beyond = make_summary({**GAPS, "pair-3": (base[0] - TOLERANCE - 0.003, base[1])}, half_width=0.002)
    assert verdicts(beyond)["understanding held"] == "no"


def test_words_carry_the_numbers_and_their_intervals():
    text = answer(make_summary(half_width=0.01), micro())
    assert "Gap went from 0.128 to 0.050, a change of -0.078 [-0.088, -0.068]" in text
    assert "0.128 -> 0.076 -> 0.062 -> 0.050" in text and "By the point values, yes." in text
    assert "`und-1`" in text and "`gen-1`" in text


def test_both_right_stands_below_the_claims_of_its_protocol():
    text = answer(make_summary(half_width=0.01), micro())
    line = "from 0.642 to 0.721, a change of +0.079 [+0.069, +0.089] (up)."
    assert text.count("- Both right, the same question") == text.count(line) == 2
    summary = make_summary()
    assert "Both right" not in answer(summary[~summary["metric"].str.endswith("both_right")], micro())


def test_what_differs_from_the_paper_s_training_is_confessed():
    text = answer(make_summary(), micro())
    assert "`pair-3` is not trained exactly as the paper says: beta 1.0 (paper 0.2), chosen_nll_weight 1.0" in text
    plain = replace(micro().training, beta=0.2, chosen_nll_weight=0.0, mask_schedule="cosine")
    assert "not trained exactly" not in answer(make_summary(), replace(micro(), training=plain))
    stopped = replace(plain, stopping=Stopping(every=20, patience=2, prompts=70))
    text = answer(make_summary(), replace(micro(), training=stopped))
    assert "exactly as the paper says: stopping {'every': 20, 'patience': 2, 'prompts': 70} (paper None)." in text


def test_other_chains_have_their_line_with_what_sets_them_apart():
    text = answer(make_summary(half_width=0.01), micro())
    assert "(chosen_nll_weight 0.0), base -> dpo-1 -> dpo-2 -> dpo-3, the same-judge gap goes 0.128 -> 0.088" in text
    assert "`dpo-3` against base -0.033 [-0.043, -0.023]" in text


JUDGE = {
    "real images": {
        "all": {"images": 400, "captions accepted": 0.995, "questions right": 0.999, "wrong captions rejected": 1.0}
    },
    "reconstructions": {"all": {"images": 400, "captions accepted": 0.9, "same scene": 0.9625}},
}


def test_the_world_and_its_judge_are_what_the_config_has():
    flat, emoji = answer(make_summary(), micro(), JUDGE), answer(pictures_summary(), pictures(), JUDGE)
    assert "- A micro world of flat shapes and a model of" in flat and "shape matching" in flat
    assert "- A pictures world of emoji on five grounds and a model of" in emoji and "least squares" in emoji
    assert not re.search("micro|flat shapes", emoji)
    for text in (flat, emoji):
        assert "Of 400 held-out real images it accepts 99.5 % of the true captions, rejects 100.0 % of" in text
        assert "answers 99.9 % of the questions" in text and "reads 96.2 % of their reconstructions" in text
    assert "it accepts" not in answer(make_summary(), micro(), {"no judge": "of another world"})


def test_the_licence_line_of_the_pictures_closes_the_answer():
    for style, names in ((None, "Twemoji (CC BY 4.0)"), ("openmoji", "OpenMoji (CC BY-SA 4.0")):
        config = replace(pictures(), data=replace(pictures().data, style=style))
        credit = world_of(config.data).credit
        assert names in credit and answer(pictures_summary(), config, JUDGE).endswith(f"\n{credit}.\n")
    assert "Twemoji" not in answer(make_summary(), micro(), JUDGE)


def test_arms_are_compared_with_paired_intervals():
    pairs = [("pair-1", "und-1"), ("pair-1", "gen-1")]
    summary = make_summary(half_width=0.01, pairs=pairs)
    text = answer(summary, micro()).partition("## Between arms\n")[2].partition("\n## ")[0]
    (line,) = (line for line in text.splitlines() if "less `gen-1`" in line)
    assert line.startswith("- `pair-1` (objective pair) less `gen-1` (objective generation): generation ")
    assert "generation -0.002 [-0.012, +0.008] (no clear difference)" in line  # 0.793 - 0.795
    assert "understanding +0.003 [-0.007, +0.013] (no clear difference)" in line
    (line,) = (line for line in text.splitlines() if "less `und-1`" in line)
    assert "gap -0.066 [-0.076, -0.056] (less); both right +0.062 [+0.052, +0.072] (more)." in line
    found = summary_of(summary, micro())["between arms"]
    assert len(found) == 2 * 4 and found[0] == {
        **{"checkpoint": "pair-1", "against": "und-1", "metric": "gap/same-judge/generation"},
        **{"delta": 0.062, "delta_low": 0.052, "delta_high": 0.072},
    }
    assert "between arms" not in summary_of(make_summary(), micro())
    assert "stand below" in answer(summary, micro()) and "not against each other" in answer(make_summary(), micro())


def test_few_seeds_are_confessed():
    assert "1 seed: the intervals say" in answer(make_summary(seeds=1), micro())
    assert "the intervals say" not in answer(make_summary(seeds=3), micro())


def test_protocols_that_disagree_are_named():
    summary = make_summary(half_width=0.005)
    row = (summary["checkpoint"] == "pair-3") & (summary["metric"] == "gap/paper/gap")
    summary.loc[row, ["delta", "delta_low", "delta_high"]] = [0.1, 0.09, 0.11]
    assert "The two protocols disagree on: the gap narrowed." in answer(summary, micro())


def test_summary_is_about_the_last_of_the_chain():
    facts = summary_of(make_summary(), micro())
    assert (facts["checkpoint"], facts["seeds"], facts["confidence"]) == ("pair-3", 3, 0.95)
    assert len(facts["claims"]) == 8


def test_no_pair_checkpoint_is_an_error():
    config = micro()
    lonely = replace(config, checkpoints={"und-1": config.checkpoints["und-1"]})
    with pytest.raises(ConfigError, match="nothing to answer"):
        summary_of(make_summary(), lonely)
