"""Arrival processes: their distribution, their rate over time, where they end, and what they refuse."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from llmgen.config import Load, Stage, Trace
from llmgen.draws import DRAW_BLOCK
from llmgen.errors import ConfigError
from llmgen.plan import DYNAMIC
from llmgen.schedule import RateCurve, check, due_blocks, parse_arrival, replay_due


def due(load, seed=1):
    blocks = list(due_blocks(load, seed))
    return np.concatenate(blocks) if blocks else np.empty(0, np.int64)


def gaps_s(times):
    return np.diff(times, prepend=0) / 1e9


def ks_distance(values, cdf, least):
    """Kolmogorov-Smirnov distance from `least` on: below it, whole nanoseconds make steps of a bursty process' gaps."""
    values = np.sort(values)
    expected = cdf(values)
    upto = np.arange(1, len(values) + 1) / len(values)
    distance = np.maximum(np.abs(upto - expected), np.abs(upto - 1 / len(values) - expected))
    return distance[values >= least].max()


N = 50_000
# The 1 % critical value of the one-sample Kolmogorov-Smirnov statistic at n = N; seeds are fixed.
KS_1_PERCENT = 1.63 / math.sqrt(N)


@pytest.mark.parametrize(
    ("arrival", "distribution"),
    [
        ("poisson", stats.expon(scale=1 / 40)),
        ("gamma:1", stats.expon(scale=1 / 40)),
        ("gamma:0.5", stats.gamma(4, scale=1 / 40 / 4)),
        ("gamma:2.5", stats.gamma(0.16, scale=1 / 40 / 0.16)),
        ("weibull:0.5", stats.weibull_min(0.5, scale=1 / 40 / math.gamma(3))),
        ("weibull:2", stats.weibull_min(2, scale=1 / 40 / math.gamma(1.5))),
    ],
)
def test_gaps_have_the_distribution_of_their_name(arrival, distribution):
    gaps = gaps_s(due(Load(arrival=arrival, rate=40, requests=N), seed=11))
    assert ks_distance(gaps, distribution.cdf, 1e-6) < KS_1_PERCENT
    assert abs(stats.pearsonr(gaps[1:], gaps[:-1]).statistic) < 0.02
    assert gaps.mean() == pytest.approx(1 / 40, rel=5 * distribution.std() * 40 / math.sqrt(N))


@pytest.mark.parametrize("arrival", ["poisson", "gamma:0.5", "gamma:3", "weibull:0.5", "weibull:2", "constant"])
def test_cv_is_that_of_its_distribution(arrival):
    parsed = parse_arrival(arrival)
    expected = {
        "poisson": 1.0,
        "gamma:0.5": 0.5,
        "gamma:3": 3.0,
        "weibull:0.5": math.sqrt(5),
        "weibull:2": stats.weibull_min(2).std() / stats.weibull_min(2).mean(),
        "constant": 0.0,
    }[arrival]
    assert parsed.cv == pytest.approx(expected)


def test_poisson_counts_are_poisson():
    counts = [len(due(Load(rate=20, duration=10), seed)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(200, abs=4 * math.sqrt(200 / 400))
    assert np.var(counts) / np.mean(counts) == pytest.approx(1, abs=0.3)


def test_constant_is_exact_and_begins_at_zero():
    times = due(Load(arrival="constant", rate=3, requests=100_001))
    np.testing.assert_array_equal(times, [round(k * 1e9 / 3) for k in range(100_001)])
    assert len(due(Load(arrival="constant", rate=10, duration=30))) == 300  # 30 s itself is not below 30 s


def test_whichever_comes_first_ends_it():
    endless = due(Load(rate=100, requests=100_000))
    by_time = due(Load(rate=100, duration=20))
    np.testing.assert_array_equal(by_time, endless[endless < 20 * 10**9])
    np.testing.assert_array_equal(due(Load(rate=100, duration=20, requests=77)), endless[:77])
    np.testing.assert_array_equal(due(Load(rate=100, duration=2, requests=10**9)), endless[endless < 2 * 10**9])


def test_a_bare_load_is_30_s_at_1_per_s():
    assert check(Load()).expected_requests == 30
    assert check(Load()).duration_ns == 30 * 10**9


def test_the_seed_decides():
    np.testing.assert_array_equal(due(Load(rate=5, requests=50), 3), due(Load(rate=5, requests=50), 3))
    assert not np.any(due(Load(rate=5, requests=50), 3) == due(Load(rate=5, requests=50), 4))


def test_blocks_are_bounded_and_a_long_schedule_is_not_made_at_once():
    blocks = due_blocks(Load(rate=1000, duration=10 * 365 * 86400), 1)  # 3.2e11 requests
    first = list(itertools.islice(blocks, 5))
    assert all(len(block) == DRAW_BLOCK and block.dtype == np.int64 for block in first)
    assert np.all(np.diff(np.concatenate(first)) >= 0)


def test_ramp_follows_the_integrated_rate():
    times = due(Load(rate=10, rate_to=110, duration=1000), seed=5)  # 60,000 expected
    assert len(times) == pytest.approx(60_000, abs=4 * math.sqrt(60_000))
    t = times / 1e9
    operational = 10 * t + 0.05 * t * t
    assert stats.kstest(np.diff(operational), stats.expon.cdf).statistic < 1.63 / math.sqrt(len(t))


def test_ramp_down_to_zero_and_up_from_zero():
    np.testing.assert_allclose(
        due(Load(arrival="constant", rate=0, rate_to=2, duration=10)) / 1e9, np.sqrt(10 * np.arange(10)), atol=1e-9
    )
    down = due(Load(arrival="constant", rate=2, rate_to=0, duration=10)) / 1e9
    np.testing.assert_allclose(down, 10 - np.sqrt(100 - 10 * np.arange(10)), atol=1e-9)


def test_gamma_keeps_its_cv_under_a_ramp():
    times = due(Load(arrival="gamma:2", rate=10, rate_to=90, duration=1000), seed=2) / 1e9
    operational = np.diff(10 * times + 0.04 * times**2)
    assert ks_distance(operational, stats.gamma(0.25, scale=4).cdf, 1e-4) < 1.63 / math.sqrt(len(operational))


def test_stages_step_ramp_and_pause():
    stages = (
        Stage(rate=10, duration=60),
        Stage(to=40, duration=60),
        Stage(rate=0, duration=30),
        Stage(rate=5, to=0, duration=20),
    )
    times = due(Load(arrival="constant", stages=stages)) / 1e9
    counts = np.histogram(times, [0, 60, 120, 150, 170])[0]
    assert counts.tolist() == [600, 1500, 0, 50]
    assert check(Load(stages=stages)).expected_requests == 2150
    assert check(Load(stages=stages, duration=60)).expected_requests == 600
    assert due(Load(stages=stages, duration=60))[-1] < 60e9


def test_stages_may_begin_at_the_rate_of_the_load():
    first = due(Load(arrival="constant", rate=10, stages=(Stage(to=30, duration=10),)))
    np.testing.assert_array_equal(first, due(Load(arrival="constant", stages=(Stage(rate=10, to=30, duration=10),))))


def test_inf_is_all_at_once():
    times = due(Load(rate=math.inf, requests=100_000))
    assert times.shape == (100_000,)
    assert not times.any()


def test_closed_is_dynamic_and_endless_with_a_duration():
    times = due(Load(concurrency=4, requests=100_000))
    assert times.shape == (100_000,)
    assert np.all(times == DYNAMIC)
    assert check(Load(concurrency=4, duration=5)).endless
    assert not check(Load(concurrency=4, requests=5)).endless
    blocks = due_blocks(Load(concurrency=4, duration=5), 1)
    assert sum(len(block) for block in itertools.islice(blocks, 100)) == 100 * DRAW_BLOCK
    assert check(Load(arrival="closed", concurrency=4)).closed


def test_replay_is_exact_and_scaled():
    t_ns = np.array([0, 1, 2**53 + 1], np.int64)
    np.testing.assert_array_equal(replay_due(t_ns, 1.0), t_ns)
    np.testing.assert_array_equal(replay_due(np.array([0, 10, 25]), 10.0), [0, 1, 2])
    np.testing.assert_array_equal(replay_due(np.array([0, 10]), 0.5), [0, 20])


def test_expectations():
    schedule = check(Load(rate=10, rate_to=30, duration=10))
    assert schedule.expected_requests == pytest.approx(200)
    assert schedule.expected_span_s == 10
    assert schedule.curve.peak == 30
    assert check(Load(rate=4, requests=100)).expected_span_s == pytest.approx(25)
    assert check(Load(rate=4, requests=100, duration=10)).expected_requests == 40
    assert check(Load(rate=4, requests=30, duration=10)).expected_requests == 30
    assert check(Load(rate=math.inf, requests=7)).expected_requests == 7
    assert check(Load(concurrency=3, duration=7)).expected_requests is None
    assert check(Load(trace=Trace(file="x"))).expected_requests is None


def test_descriptions():
    assert check(Load(rate=2.5)).describe() == "poisson 2.5/s"
    assert check(Load(arrival="gamma:2", rate=1, rate_to=9, duration=5)).describe() == "gamma:2 1..9/s"
    assert check(Load(rate=math.inf, requests=1)).describe() == "all at once"
    assert check(Load(concurrency=2)).describe() == "closed"
    assert check(Load(trace=Trace(file="x"))).describe() == "trace"


def test_curve_inverts_its_integral():
    curve = RateCurve([(5, 5, 10), (5, 0, 10), (0, 0, 5), (0, 8, 4), (2, 2, math.inf)])
    t = np.array([0, 1, 9.5, 10, 12, 19.9, 25.1, 28.9, 29, 1000.0])
    np.testing.assert_allclose(curve.invert(np.array([curve.integral(x) for x in t])), t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (Load(arrival="posson"), ["load.arrival='posson'", "poisson", "gamma:CV"]),
        (Load(arrival="gamma"), ["load.arrival='gamma'", "number", "gamma:0.5"]),
        (Load(arrival="gamma:0"), ["load.arrival='gamma:0'", "above 0", "constant"]),
        (Load(arrival="gamma:nan"), ["load.arrival='gamma:nan'", "above 0"]),
        (Load(arrival="weibull:1000"), ["load.arrival='weibull:1000'", "0.1 to 100"]),
        (Load(arrival="poisson:2"), ["load.arrival='poisson:2'", "poisson"]),
        (Load(rate=0), ["load.rate=0", "above 0"]),
        (Load(rate=-1), ["load.rate=-1", "0 or from"]),
        (Load(rate=math.nan), ["load.rate=nan"]),
        (Load(rate=math.inf), ["load.rate=inf", "--requests"]),
        (Load(rate=1, rate_to=2, requests=5), ["load.rate_to=2", "--duration"]),
        (Load(rate=0, rate_to=0, duration=1), ["load.rate=0"]),
        (Load(rate=1, rate_to=-2, duration=5), ["load.rate_to=-2"]),
        (Load(duration=0), ["load.duration=0", "above 0"]),
        (Load(requests=0), ["load.requests=0", "at least 1"]),
        (Load(arrival="closed"), ["load.arrival='closed'", "--concurrency"]),
        (Load(concurrency=0), ["load.concurrency=0", "at least 1"]),
        (Load(concurrency=1, rate=5), ["load.rate", "load.concurrency"]),
        (Load(trace=Trace(file="x"), rate=2), ["load.rate", "--trace-scale"]),
        (Load(trace=Trace(file="x"), concurrency=2), ["load.trace", "load.concurrency"]),
        (Load(trace=Trace(file="x", scale=0)), ["load.trace.scale=0", "above 0"]),
        (Load(stages=(Stage(duration=5),)), ["load.stages[0]", "rate"]),
        (Load(stages=(Stage(to=5, duration=5),)), ["load.stages[0].to=5", "rate"]),
        (Load(stages=(Stage(rate=1, duration=5), Stage(rate=-1, duration=5))), ["load.stages[1].rate=-1"]),
        (Load(stages=(Stage(rate=1, duration=0),)), ["load.stages[0].for=0"]),
        (Load(stages=(Stage(rate=0, duration=5),)), ["load.stages", "0"]),
        (Load(stages=(Stage(rate=1, duration=5),), rate_to=5), ["load.rate_to", "stage"]),
    ],
)
def test_what_cannot_work_is_refused_with_key_value_and_cure(load, words):
    with pytest.raises(ConfigError) as caught:
        check(load)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(ConfigError):
        due_blocks(load, 1)  # at the call, not at the first block
