"""Percentiles equal numpy's on whatever values, with and without weights and infinite ones."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmgen.metrics.slo import aggregate
from llmgen.metrics.statistics import QUANTILES, ks_distance, quantiles, weighted_quantiles

SHARES = tuple(QUANTILES.values())
NS = st.integers(0, 2**52)


@given(st.lists(NS, min_size=1, max_size=300))
def test_quantiles_are_numpys_to_the_last_bit(values: list[int]) -> None:
    array = np.array(values, np.int64)
    assert quantiles(np.sort(array), SHARES).tolist() == np.quantile(array, SHARES).tolist()


@given(st.lists(st.tuples(NS, st.integers(1, 9)), min_size=1, max_size=100))
def test_weights_are_repetitions(pairs: list[tuple[int, int]]) -> None:
    values, weights = (np.array(column, np.int64) for column in zip(*sorted(pairs), strict=True))
    assert (
        weighted_quantiles(values, weights, SHARES).tolist() == np.quantile(np.repeat(values, weights), SHARES).tolist()
    )


@given(st.lists(NS, max_size=100), st.integers(0, 20), st.sampled_from(sorted(QUANTILES)))
def test_missing_values_are_infinite(values: list[int], missing: int, name: str) -> None:
    found = aggregate(name, np.array(values, np.int64), None, missing)
    if not values and not missing:
        assert found is None
        return
    pool = sorted([float(value) for value in values] + [math.inf] * missing)
    position = QUANTILES[name] * (len(pool) - 1)
    low, high = pool[math.floor(position)], pool[math.ceil(position)]
    assert found is not None
    if math.isinf(high):
        assert math.isinf(found)
    else:
        assert low <= found <= high
        if not missing:
            assert found == np.quantile(np.array(values), QUANTILES[name])


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_ks_distance_is_the_largest_difference_of_the_cdfs(a: list[int], b: list[int]) -> None:
    x, y = np.array(a), np.array(b)
    expected = max(abs((x <= t).mean() - (y <= t).mean()) for t in range(51))
    found = ks_distance(x, y)
    assert found is not None
    assert math.isclose(found, expected, abs_tol=1e-12)
    assert ks_distance(x, y, tolerance=51) == 0
