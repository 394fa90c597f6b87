"""The search for the capacity, against servers whose capacity is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmgen.metrics.capacity import (
    Plan,
    Point,
    Share,
    conclude,
    knee,
    levels_of,
    monotone,
    next_rate,
    requests_needed,
    search,
)
from llmgen.metrics.operating_point import share_of

Offer = Callable[[float], Point]
WINDOW_S = 24.0


def point(rate: float, good: int, n: int, **told: object) -> Point:
    share = Share(name="goodput>=0.99", target=0.99, good=good, n=n, effective=float(n))
    return Point(rate=rate, shares=(share,), **told)  # type: ignore[arg-type]


def soft(capacity: float, steepness: float, seed: int) -> Offer:
    """Requests miss independently, 1 % of them at the capacity, and more with the rate to a power."""
    rng = np.random.default_rng(seed)

    def offer(rate: float) -> Point:
        odds = (rate / capacity) ** steepness / 99
        n = rng.poisson(rate * WINDOW_S)
        good = rng.binomial(n, 1 / (1 + odds))
        return point(rate, int(good), int(n), requests_per_s=good / WINDOW_S, e2e_p50_ms=100 * (1 + odds))

    return offer


def queue(servers: int, service_s: float, limit_s: float, seed: int) -> Offer:
    """M/M/c, 30 s of which the last 24 count; a request is good if it waits less than the limit."""
    rng = np.random.default_rng(seed)

    def offer(rate: float) -> Point:
        arrivals = np.cumsum(rng.exponential(1 / rate, int(rate * 30)))
        free = np.zeros(servers)
        waits, ends = np.empty(len(arrivals)), np.empty(len(arrivals))
        for number, at in enumerate(arrivals):
            server = int(free.argmin())
            start = max(at, free[server])
            free[server] = ends[number] = start + rng.exponential(service_s)
            waits[number] = start - at
        window = arrivals >= 6.0
        e2e = (ends - arrivals)[window]
        share = share_of("wait", 0.99, waits[window] < limit_s, WINDOW_S / float(np.quantile(e2e, 0.99)))
        done = np.count_nonzero((ends >= 6.0) & (ends < 30.0)) / WINDOW_S
        return Point(rate=rate, shares=(share,), requests_per_s=done, e2e_p50_ms=float(np.median(e2e)) * 1e3)

    return offer


def queue_capacity(servers: int, service_s: float, limit_s: float) -> float:
    """The rate at which 1 % wait longer: Erlang C times exp(-(c mu - rate) limit)."""

    def late(rate: float) -> float:
        load = rate * service_s
        if load >= servers:
            return 1.0
        top = load**servers / math.factorial(servers) * servers / (servers - load)
        waiting = top / (sum(load**k / math.factorial(k) for k in range(servers)) + top)
        return waiting * math.exp(-(servers / service_s - rate) * limit_s)

    low, high = 0.0, servers / service_s
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if late(middle) < 0.01 else (low, middle)
    return low


# -- finds what is there -----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    capacity=st.floats(20, 1000),
    steepness=st.floats(15, 80),
    seed=st.integers(0, 10_000),
    start=st.sampled_from([1.0, 10.0]),
)
@example(capacity=39.0, steepness=15.0, seed=0, start=10.0)  # nothing misses for sure in eleven runs
def test_finds_the_capacity_of_a_server_with_independent_misses(
    capacity: float, steepness: float, seed: int, start: float
) -> None:
    found = search(soft(capacity, steepness, seed), Plan(rate_min=start, tolerance=0.05))
    assert len(found.points) <= 12
    assert found.outcome == "found", found
    assert found.limit == "server"
    assert found.capacity is not None
    # below it by at most what the interval and the tolerance take; above it by the luck of few requests only
    assert 0.65 * capacity <= found.capacity <= 1.08 * capacity


def test_is_mostly_within_five_percent() -> None:
    ratios = np.array(
        [search(soft(200.0, 60.0, seed), Plan(rate_min=10.0, tolerance=0.03)).capacity for seed in range(60)]
    )
    assert np.mean(np.abs(ratios / 200.0 - 1) <= 0.05) >= 0.9
    # a rate that does not meet the target passes in 1 of 20 runs at most, and the search looks several times
    assert np.mean(ratios > 200.0) <= 0.2


@pytest.mark.parametrize(("servers", "service_s", "limit_s"), [(16, 0.2, 0.05), (32, 0.3, 0.1)])
def test_finds_the_capacity_of_a_queue(servers: int, service_s: float, limit_s: float) -> None:
    true = queue_capacity(servers, service_s, limit_s)
    found = [search(queue(servers, service_s, limit_s, seed), Plan(rate_min=5.0, tolerance=0.05)) for seed in range(8)]
    assert all(len(one.points) <= 12 for one in found)
    ratios = np.array([one.capacity for one in found]) / true
    assert 0.93 <= float(np.median(ratios)) <= 1.07
    assert (np.abs(ratios - 1) < 0.25).all(), ratios


def test_a_noisy_edge_is_repeated_and_not_divided_wrongly() -> None:
    """At 100 one run of two is spoilt by something else; a bisection would stay below 100 for good."""
    spoilt = iter([True, False, False, False])

    def offer(rate: float) -> Point:
        bad = rate > 130 or (rate == 100 and next(spoilt, False))
        good = 0.985 if bad and rate == 100 else 0.5 if bad else 1.0
        n = round(rate * WINDOW_S)
        return point(rate, round(good * n), n)

    found = search(offer, Plan(rate_min=25.0, tolerance=0.05))
    assert found.capacity is not None
    assert found.capacity > 115, found.levels
    assert found.upper is not None
    assert found.upper / found.capacity < 1.12


# -- what limits it ----------------------------------------------------------------------------------------------------


def perfect(rate: float) -> Point:
    n = round(rate * WINDOW_S)
    return point(rate, n, n, requests_per_s=rate, e2e_p50_ms=100.0)


def test_a_server_that_meets_everything_up_to_the_largest_rate() -> None:
    found = search(perfect, Plan(rate_min=1.0, rate_max=300.0))
    assert (found.outcome, found.limit, found.capacity, found.upper) == ("at-least", "rate-max", 300.0, None)
    assert [one.rate for one in found.points] == [1, 4, 16, 64, 256, 300]
    found = search(perfect, Plan(rate_min=1.0, runs=3))
    assert (found.outcome, found.limit, found.capacity) == ("at-least", "runs", 16.0)


def test_the_ramp_is_finer_once_latency_moves() -> None:
    def offer(rate: float) -> Point:
        n = round(rate * WINDOW_S)
        return point(rate, n, n, e2e_p50_ms=100.0 if rate < 60 else 200.0)

    assert [one.rate for one in search(offer, Plan(rate_min=4.0, runs=5)).points] == [4, 16, 64, 128, 256]


def test_a_server_that_misses_at_the_lowest_rate_is_asked_twice() -> None:
    found = search(lambda rate: point(rate, 100, 480), Plan(rate_min=20.0))
    assert (found.outcome, found.limit, found.capacity) == ("none", "server", None)
    assert [one.rate for one in found.points] == [20, 20]


def test_too_few_requests_decide_nothing() -> None:
    found = search(lambda rate: point(rate, 24, 24), Plan(rate_min=1.0, rate_max=1.0))
    assert found.outcome == "undecided"
    assert found.requests_needed == requests_needed(0.99, 0.95) > 3 * 24
    assert len(found.points) == 3


def limited(client_from: float, server_from: float, reasons: tuple[str, ...] = ("late",)) -> Offer:
    def offer(rate: float) -> Point:
        n = round(rate * WINDOW_S)
        good = n if rate <= server_from else n // 2
        if rate > client_from:
            return point(rate, n // 3, n, client="invalid", reasons=reasons, workers=4, completed=0.5)
        return point(rate, good, n)

    return offer


def test_the_client_is_told_from_the_server() -> None:
    found = search(limited(100.0, 1000.0), Plan(rate_min=10.0))
    assert (found.outcome, found.limit, found.upper, found.workers, found.reasons) == (
        "client",
        "client",
        None,
        4,
        ("late",),
    )
    assert found.capacity is not None
    assert 90 <= found.capacity <= 100
    # a server that is slower than the client is found
    found = search(limited(100.0, 50.0), Plan(rate_min=10.0))
    assert (found.outcome, found.suspect, found.workers) == ("found", False, None)
    assert found.capacity is not None
    assert 45 <= found.capacity <= 50
    found = search(limited(5.0, 50.0), Plan(rate_min=10.0))
    assert (found.outcome, found.capacity, len(found.points)) == ("client", None, 2)


def test_one_run_that_the_client_spoilt_is_made_again() -> None:
    spoilt = iter([True, True])

    def offer(rate: float) -> Point:
        n = round(rate * WINDOW_S)
        if rate == 40 and next(spoilt, False):
            return point(rate, 0, n, client="invalid", reasons=("steal",))
        return point(rate, n if rate <= 80 else 0, n)

    found = search(offer, Plan(rate_min=10.0))
    assert [one.rate for one in found.points][:5] == [10, 40, 40, 40, 160]
    assert found.outcome == "found"


def test_a_client_that_measured_a_higher_rate_is_not_the_limit() -> None:
    def offer(rate: float) -> Point:
        n = round(rate * WINDOW_S)
        if 85 < rate < 95:
            return point(rate, 0, n, client="invalid", reasons=("steal",))
        return point(rate, n if rate <= 100 else 0, n)

    found = search(offer, Plan(rate_min=45.0, runs=14))
    assert (found.outcome, found.limit) == ("found", "server")
    assert found.capacity is not None
    assert found.upper is not None
    assert 95 <= found.capacity <= 100 < found.upper <= 110
    assert [point.rate for point in found.points][:4] == [45, 180, 90, 90]


def test_failing_runs_that_are_suspect_are_told() -> None:
    def offer(rate: float) -> Point:
        n = round(rate * WINDOW_S)
        bad = rate > 80
        return point(rate, 0 if bad else n, n, client="suspect" if bad else "valid", reasons=("cpu",) if bad else ())

    found = search(offer, Plan(rate_min=10.0))
    assert (found.outcome, found.suspect, found.reasons) == ("found", True, ("cpu",))


# -- pieces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [{"completed": 0.98}, {"unmet": ("ttft_mean<1ms",)}])
def test_what_is_no_share_of_requests_fails_a_rate(told: dict[str, object]) -> None:
    (level,) = levels_of([point(10, 500, 500, **told)], Plan())
    assert level.verdict == "misses"


def test_growth_in_one_good_run_is_made_sure_of() -> None:
    growing = point(50, 1200, 1200, growing=True)
    assert levels_of([growing], Plan())[0].verdict == "unsure"
    assert levels_of([growing, growing], Plan())[0].verdict == "misses"
    steady = point(50, 1200, 1200)
    assert levels_of([growing, steady, steady], Plan())[0].verdict == "meets"
    assert next_rate([point(25, 600, 600), growing], Plan(tolerance=1.5)) == 50


def test_neighbours_speak_for_a_rate() -> None:
    few = [point(rate, 150, 150) for rate in (5.0, 6.0, 7.0)]
    low, middle, high = levels_of(few, Plan())
    assert (low.verdict, middle.verdict, high.verdict) == ("meets", "meets", "unsure")
    few = [point(rate, 145, 150) for rate in (5.0, 6.0, 7.0)]
    low, middle, high = levels_of(few, Plan())
    assert (low.verdict, middle.verdict, high.verdict) == ("misses", "misses", "misses")


def test_the_last_run_where_only_a_lower_rate_looked_bad() -> None:
    """The highest rate meets the objectives and speaks for the others: nothing lies above it that was unsure."""
    shown = [point(10, 988, 1000), point(20, 2992, 3000), point(28, 297, 300), point(40, 300, 300)]
    assert [level.verdict for level in levels_of(shown, Plan())] == ["meets"] * 4
    assert next_rate(shown, Plan(runs=5)) is None


def test_results_that_contradict_each_other_decide_nothing() -> None:
    levels = levels_of([point(10, 900, 1000), point(20, 5000, 5000)], Plan())
    assert [level.verdict for level in levels] == ["unsure", "unsure"]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 100)), min_size=1, max_size=8))
def test_the_monotone_fit_falls_and_keeps_the_mean(pairs: list[tuple[float, float]]) -> None:
    values, weights = zip(*pairs, strict=True)
    fit = monotone(values, weights)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(fit))
    assert np.average(fit, weights=weights) == pytest.approx(np.average(values, weights=weights))
    # least squares: no falling sequence out of the values' own means is nearer (min-max formula)
    for i in range(len(values)):
        best = max(
            min(np.average(values[a : b + 1], weights=weights[a : b + 1]) for a in range(i + 1))
            for b in range(i, len(values))
        )
        assert fit[i] == pytest.approx(best)


def test_the_estimate_lies_where_the_fit_crosses_the_target() -> None:
    found = conclude([point(10, 1000, 1000), point(20, 980, 1000)], Plan())
    assert found.estimate == pytest.approx(10 * 2**0.5)
    assert conclude([point(10, 1000, 1000)], Plan()).estimate is None


def test_the_knee_is_where_the_power_is_largest() -> None:
    points = [
        point(rate, 1, 1, requests_per_s=done, e2e_p50_ms=ms)
        for rate, done, ms in ((10, 10, 100), (40, 40, 110), (80, 80, 300), (160, 85, 3000))
    ]
    assert knee(points) == 40
    assert knee(points[:1]) is None


def test_how_many_requests_are_needed() -> None:
    # n / (n + z²) ≥ 0.99 with z = 1.645: n ≥ 267.9
    assert requests_needed(0.99, 0.95) == 268
    assert requests_needed(0.5, 0.95) == 3
