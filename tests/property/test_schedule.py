"""Schedules of any configuration: sorted, within their end, the same whatever pieces they are asked for in."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.config import Load, Stage
from llmgen.schedule import RateCurve, check, due_blocks

arrivals = st.sampled_from(["constant", "poisson", "gamma:0.3", "gamma:1.7", "gamma:20", "weibull:0.4", "weibull:3"])
rates = st.floats(0.001, 5000)


def due(load, seed):
    blocks = list(due_blocks(load, seed))
    return np.concatenate(blocks) if blocks else np.empty(0, np.int64)


@given(arrivals, rates, st.integers(1, 40_000), st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_sorted_and_a_shorter_run_is_the_beginning_of_a_longer(arrival, rate, requests, seed):
    times = due(Load(arrival=arrival, rate=rate, requests=requests), seed)
    assert len(times) == requests
    assert times[0] >= 0
    assert np.all(np.diff(times) >= 0)
    shorter = due(Load(arrival=arrival, rate=rate, requests=requests // 2 + 1), seed)
    np.testing.assert_array_equal(shorter, times[: requests // 2 + 1])
    middle = int(times[requests // 2])
    if middle:
        below = due(Load(arrival=arrival, rate=rate, requests=requests, duration=middle / 1e9), seed)
        end = round(middle / 1e9 * 1e9)
        np.testing.assert_array_equal(below, times[times < end])


@given(arrivals, st.floats(0.01, 100), st.floats(0.5, 50), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_faster_clock_only_scales_the_times(arrival, rate, factor, seed):
    slow = due(Load(arrival=arrival, rate=rate, requests=500), seed)
    fast = due(Load(arrival=arrival, rate=rate * factor, requests=500), seed)
    np.testing.assert_allclose(fast * factor, slow, rtol=1e-9, atol=factor + 1)


stage_rates = st.one_of(st.just(0.0), st.floats(1e-6, 100))
pieces = st.lists(
    st.tuples(stage_rates, st.one_of(st.none(), stage_rates), st.floats(0.1, 100)), min_size=1, max_size=6
).filter(lambda found: any(start > 0 or (end or 0) > 0 for start, end, _ in found))


@given(pieces)
@settings(max_examples=150, deadline=None)
def test_constant_arrivals_fall_where_the_integral_of_the_rate_is_whole(found):
    stages = tuple(Stage(rate=start, to=end, duration=length) for start, end, length in found)
    load = Load(arrival="constant", stages=stages)
    curve = check(load).curve
    times = due(load, 1)
    assert np.all(np.diff(times) >= 0)
    total = curve.integral(curve.span_s)
    assert math.floor(total - 1e-6) <= len(times) <= math.ceil(total + 1e-6)
    reached = np.array([curve.integral(t / 1e9) for t in times[:2000]])
    # half a nanosecond of rounding at up to 100 requests/s, and that of the double precision sums
    np.testing.assert_allclose(reached, np.arange(len(reached)), atol=1e-6)


@given(pieces, st.lists(st.floats(0, 1), min_size=1, max_size=50))
@settings(max_examples=150, deadline=None)
def test_inversion_is_monotone_and_stays_inside(found, shares):
    curve = RateCurve([(start, start if end is None else end, length) for start, end, length in found])
    y = np.sort(np.array(shares)) * curve.integral(curve.span_s) * (1 - 1e-12)
    t = curve.invert(y)
    assert np.all(np.diff(t) >= 0)
    assert t[0] >= 0
    assert t[-1] <= curve.span_s
    np.testing.assert_allclose([curve.integral(x) for x in t], y, rtol=1e-6, atol=1e-6)
