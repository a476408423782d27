import pytest
import torch

from hermesflow.models.showo.costs.masked import expected_masked
from hermesflow.models.showo.masking import SCHEDULES, draw_mask, pair_mask, ratios_between


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_go_from_all_to_none(schedule):
    shares = SCHEDULES[schedule](torch.linspace(0, 1, 5))
    assert shares[0] == 1.0
    assert abs(shares[-1]) < 1e-6
    assert torch.all(shares.diff() < 0)


@pytest.mark.parametrize(
    ("schedule", "mean", "above_half"),
    [
        ("cosine", 2 / torch.pi, 2 / 3),  # the mean of cos(u pi / 2), which is above 1/2 for u < 2/3
        ("linear", 1 / 2, 1 / 2),
        ("square_root", 1 / 3, 1 / 4),
    ],
)
def test_masks_follow_the_schedule(schedule, mean, above_half):
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([draw_mask(64, generator, schedule=schedule) for _ in range(2000)])
    shares = masks.float().mean(dim=1)
    assert masks.dtype == torch.bool and masks.any(dim=1).all()
    assert abs(shares.mean() - mean) < 0.02
    assert abs((shares > 0.5).float().mean() - above_half) < 0.04
    assert abs(masks.float().mean(dim=0) - mean).max() < 0.05  # no position is favoured


@pytest.mark.parametrize(
    ("schedule", "shares", "mean"),
    [
        # of cos(u pi / 2) between .85 and 1: sin(a) / a at a = acos(.85)
        ("cosine", (0.85, 1.0), 0.94948),
        ("linear", (0.2, 0.6), 0.4),
        # of 1 - sqrt(u) for u from 0 to 1/4: 1 - 2/3 * 1/2
        ("square_root", (0.5, 1.0), 2 / 3),
        ("cosine", (0.7, 0.7), 0.7),
    ],
)
def test_masks_between_two_shares_keep_the_schedules_proportions(schedule, shares, mean):
    generator = torch.Generator().manual_seed(0)
    masks = [draw_mask(256, generator, schedule=schedule, mask_ratios=shares) for _ in range(2000)]
    masked = torch.stack(masks).float().mean(dim=1)
    assert shares[0] - 1 / 256 <= masked.min() and masked.max() <= shares[1] + 1 / 256
    assert masked.mean().item() == pytest.approx(mean, abs=0.01)
    assert expected_masked(schedule, tokens=256, mask_ratios=shares) == pytest.approx(256 * mean, rel=1e-3)


def test_all_shares_are_the_schedule_itself():
    """Bit by bit, or every trained checkpoint would change."""
    for schedule in SCHEDULES:
        uniform = torch.rand(1000, generator=torch.Generator().manual_seed(1))
        assert torch.equal(ratios_between(schedule, (0.0, 1.0), uniform), uniform)


def test_a_mask_of_one_token_is_masked():
    assert draw_mask(1, torch.Generator().manual_seed(3), schedule="cosine").tolist() == [True]


def test_mask_of_a_pair_depends_on_pair_pass_iteration_and_seed_alone():
    kind = {"num_tokens": 64, "schedule": "cosine"}
    mask = pair_mask((0, 1, "pairs-1", 0), **kind)
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(mask, pair_mask((0, 1, "pairs-1", 0), **kind))
    others = [
        pair_mask(name, **kind)
        for name in ((0, 1, "pairs-2", 0), (0, 1, "pairs-1", 1), (1, 1, "pairs-1", 0), (0, 2, "pairs-1", 0))
    ]
    assert not any(torch.equal(mask, other) for other in others)


def test_masks_stay_those_of_earlier_versions():
    """Another name of the stream would change every trained checkpoint without a word."""
    mask = pair_mask((0, 1, "pairs-1", 0), num_tokens=16, schedule="cosine")
    assert mask.nonzero().flatten().tolist() == [1, 2, 6, 10, 14]
