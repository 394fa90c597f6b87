"""Recovery, growth, stairs and outages of times made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.columns import Status
from llmgen.metrics.recovery import outages, recovered_at, rises, stairs, unending


def due(until: float, rate: float = 20.0) -> np.ndarray:
    return np.arange(int(until * rate)) / rate


def test_recovery_is_the_first_moment_from_which_attainment_stays() -> None:
    at = due(60)
    good = (at < 10) | (at >= 23.4)
    found = recovered_at(at, good, 0.95, 20, 60)
    # of the 100 requests of a window five may be bad: a quarter of a second before the first good one
    assert found == pytest.approx(23.15, abs=0.11)
    assert recovered_at(at, good, 1.0, 20, 60) == pytest.approx(23.4, abs=0.11)
    assert recovered_at(at, good, 0.95, 30, 60) == 30, "at once, where nothing was missed"


def test_a_relapse_within_ten_seconds_is_no_recovery() -> None:
    at = due(60)
    good = (at >= 15) & ~((at >= 24) & (at < 26))
    assert recovered_at(at, good, 1.0, 10, 60) == pytest.approx(26, abs=0.11)
    later = (at >= 15) & ~((at >= 27) & (at < 28))
    assert recovered_at(at, later, 1.0, 10, 60) == pytest.approx(15, abs=0.11)


@pytest.mark.parametrize("end", [30.0, 32.9])
def test_what_was_watched_for_less_than_ten_seconds_is_not_known(end: float) -> None:
    at = due(60)
    assert recovered_at(at[at < end], (at >= 23)[at < end], 1.0, 20, end) is None


def test_a_time_without_requests_shows_nothing() -> None:
    at = due(60)
    silent = at[(at < 20) | (at > 40)]
    found = recovered_at(silent, np.ones(len(silent), bool), 1.0, 18, 60)
    assert found == pytest.approx(35.1, abs=0.2), "the first window with a request in it begins 5 s before that"


def test_growth_that_does_not_end_and_noise_that_does() -> None:
    rng = np.random.default_rng(3)
    accused = 0
    for _ in range(200):
        steady = rng.poisson(40, 40)
        accused += unending(steady, 0.5, 20.0)
    assert accused <= 2
    grows = 40 + 4.0 * np.arange(40) * 0.5 + rng.normal(0, 3, 40)
    assert unending(grows, 0.5, 20.0)
    fills_up = np.where(np.arange(40) < 10, np.arange(40) * 4, 40)
    assert not unending(fills_up, 0.5, 20.0)
    assert not unending(grows[:5], 0.5, 20.0), "too short to tell"


def capacity(levels: list[tuple[float, float]], width: float = 0.25, noise: float = 0.03) -> np.ndarray:
    rng = np.random.default_rng(1)
    rate = np.concatenate([np.full(int(seconds / width), level) for seconds, level in levels])
    return rate * (1 + noise * rng.standard_normal(len(rate)))


def test_stairs_are_found_where_they_are() -> None:
    found = stairs(capacity([(8, 3000), (6, 6000), (10, 9000)]), 0.25, 100.0)
    assert [(one.from_s, one.until_s) for one in found] == [(100, 108), (108, 114), (114, 124)]
    assert [one.level for one in found] == pytest.approx([3000, 6000, 9000], rel=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_no_stairs(seed: int) -> None:
    rate = np.random.default_rng(seed).normal(3000, 300, 120)
    assert len(stairs(rate, 0.25)) == 1


def test_rises_are_of_capacity_only() -> None:
    rate = capacity([(1, 1500), (7, 3000), (6, 6000), (6, 3500), (6, 6100)])
    piling = np.arange(len(rate), dtype=float)
    found = rises(rate, piling, 0.25, 20.0)
    # not the way from 1500, which is too short to be a level; not the return from the dip
    assert [at for at, _ in found] == [28.0]
    assert not rises(rate, piling[::-1], 0.25), "where nothing piles up more tokens are more load"


def test_a_rise_begins_where_it_first_stands_out() -> None:
    rate = capacity([(8, 3000), (1, 3600), (8, 6000)])
    ((at, stair),) = rises(rate, np.arange(len(rate), dtype=float), 0.25)
    assert at == 8.0
    assert stair.level == pytest.approx(6000, rel=0.03)


def test_an_outage_is_nothing_but_refusals() -> None:
    end = np.arange(40) * 0.1
    status = np.full(40, Status.ok)
    status[10:12] = Status.stream_cut
    status[12:25] = Status.connect_refused
    (found,) = outages(status, end, 3)
    assert (found.run, found.from_s, found.until_s) == (3, pytest.approx(1.0), pytest.approx(2.5))
    assert found.failures == {"stream_cut": 2, "connect_refused": 13}
    status[18] = Status.ok
    assert len(outages(status, end, 3)) == 2, "a success in between: it was there"
    status[10:25] = Status.rate_limited
    assert not outages(status, end, 3), "a full queue is no outage"
    status[10:25] = Status.reset
    assert not outages(status, end, 3), "cut connections alone may be overload"
    status[25:] = Status.connect_refused
    (last,) = outages(status, end, 3)
    assert last.until_s is None


def test_a_hiccup_is_no_outage() -> None:
    status = np.array([Status.ok, Status.connect_refused, Status.connect_refused, Status.ok])
    assert not outages(status, np.array([0.0, 1.0, 2.0, 3.0]), 1)
    assert not outages(np.empty(0, int), np.empty(0), 1)
