"""Rules of the bootstrap that hold for all figures."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from hermesflow.evaluation.bootstrap import estimate, ratio, resample_counts
from hermesflow.evaluation.evaluated import Evaluated

UNITS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), min_size=1, max_size=12)
RESAMPLES = 7


def evaluated(units, order=None, pools=(("m", "p"),)):
    rows = [
        {"metric": metric, "pool": pool, "id": f"i{i:02d}", "numerator": n, "denominator": float(d)}
        for metric, pool in pools
        for i, (n, d) in enumerate(units)
    ]
    table = pd.DataFrame(rows)
    return Evaluated(table if order is None else table.iloc[order], np.zeros((0, 3)), np.zeros((0, 3)))


@given(st.text("ab", max_size=3), st.integers(1, 30), st.integers(0, 9))
def test_every_resample_draws_as_many_units_as_there_are(pool, units, resamples):
    counts = resample_counts(pool, units, resamples=resamples)
    assert counts.shape == (resamples, units)
    assert (counts >= 0).all() and (counts.sum(axis=1) == units).all()
    assert np.array_equal(counts, resample_counts(pool, units, resamples=resamples))


@given(UNITS, st.randoms())
def test_figures_do_not_depend_on_the_order_of_the_rows(units, random):
    pools = (("m", "p"), ("l", "q"))
    order = list(range(2 * len(units)))
    random.shuffle(order)
    one, other = (estimate(evaluated(units, o, pools), resamples=RESAMPLES) for o in (None, order))
    assert one.metrics == other.metrics == ("m", "l") and one.designs == other.designs
    assert np.array_equal(one.values, other.values) and np.array_equal(one.replicates, other.replicates)


@given(UNITS)
def test_a_figure_is_the_ratio_of_sums_and_every_replicate_lies_between_its_units(units):
    one = estimate(evaluated(units), resamples=RESAMPLES)
    sums = np.sum(units, axis=0)
    assert np.allclose(one.values, sums[0] / sums[1])
    ratios = [n / d for n, d in units]
    slack = 1e-9
    assert (one.replicates >= min(ratios) - slack).all() and (one.replicates <= max(ratios) + slack).all()
    assert one.items.tolist() == [len(units)]


@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([0.0, 1.0, 2.0])), min_size=1))
def test_a_ratio_over_nothing_is_zero(pairs):
    numerators, denominators = np.array(pairs).T
    expected = [n / d if d else 0.0 for n, d in pairs]
    assert ratio(numerators, denominators).tolist() == expected
