import torch

from hermesflow.masking import cosine_schedule, draw_mask, pair_mask


def test_cosine_schedule_goes_from_all_to_none():
    shares = cosine_schedule(torch.linspace(0, 1, 5))
    assert shares[0] == 1.0
    assert abs(shares[-1]) < 1e-6
    assert torch.all(shares.diff() < 0)


def test_masks_follow_the_schedule():
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([draw_mask(64, generator) for _ in range(2000)])
    shares = masks.float().mean(dim=1)
    assert masks.dtype == torch.bool and masks.any(dim=1).all()
    assert abs(shares.mean() - 2 / torch.pi) < 0.02  # the mean of cos(u pi / 2)
    assert abs((shares > 0.5).float().mean() - 2 / 3) < 0.04  # cos(u pi / 2) > 1/2 for u < 2/3
    assert abs(masks.float().mean(dim=0) - 2 / torch.pi).max() < 0.05  # no position is favoured


def test_a_mask_of_one_token_is_masked():
    assert draw_mask(1, torch.Generator().manual_seed(3)).tolist() == [True]


def test_mask_of_a_pair_depends_on_pair_pass_iteration_and_seed_alone():
    names = {"seed": 0, "iteration": 1, "num_tokens": 64}
    mask = pair_mask("pairs-1", 0, **names)
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(mask, pair_mask("pairs-1", 0, **names))
    others = [
        pair_mask("pairs-2", 0, **names),
        pair_mask("pairs-1", 1, **names),
        pair_mask("pairs-1", 0, **{**names, "seed": 1}),
        pair_mask("pairs-1", 0, **{**names, "iteration": 2}),
    ]
    assert not any(torch.equal(mask, other) for other in others)
