"""Rules of random masks that hold for every image size, schedule and name."""

from typing import get_args

import torch
from hypothesis import given
from hypothesis import strategies as st

from hermesflow.config.sections import MaskSchedule
from hermesflow.models.showo.masking import SCHEDULES, draw_mask, pair_mask

NAMES = st.tuples(st.integers(0, 9), st.integers(1, 3), st.text("ab", min_size=1, max_size=3), st.integers(0, 5))
SCHEDULE = st.sampled_from(get_args(MaskSchedule))


@given(st.integers(1, 300), st.integers(0, 2**31), SCHEDULE)
def test_the_masked_share_is_the_schedules_at_the_first_number_drawn(tokens, seed, schedule):
    mask = draw_mask(tokens, torch.Generator().manual_seed(seed), schedule=schedule)
    share = SCHEDULES[schedule](torch.rand((), generator=torch.Generator().manual_seed(seed))).item()
    assert mask.shape == (tokens,) and mask.dtype == torch.bool
    assert mask.sum() == max(1, round(tokens * share))


@given(st.integers(1, 300), st.integers(0, 2**31), SCHEDULE, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_masked_share_lies_between_the_two_that_are_asked_for(tokens, seed, schedule, shares):
    low, high = sorted(shares)
    mask = draw_mask(tokens, torch.Generator().manual_seed(seed), schedule=schedule, mask_ratios=(low, high))
    assert max(1, round(tokens * low)) <= mask.sum() <= max(1, round(tokens * high))


@given(NAMES, st.integers(16, 64), SCHEDULE)
def test_a_name_has_one_mask_and_its_passes_have_different_ones(name, tokens, schedule):
    one = pair_mask(name, num_tokens=tokens, schedule=schedule)
    assert torch.equal(one, pair_mask(name, num_tokens=tokens, schedule=schedule))
    again = torch.stack([pair_mask((*name[:3], p), num_tokens=tokens, schedule=schedule) for p in range(20)])
    assert len(again.unique(dim=0)) > 10
