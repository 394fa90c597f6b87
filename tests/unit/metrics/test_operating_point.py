"""What a run of a search showed at its rate."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.errors import ConfigError
from llmgen.metrics.operating_point import effective, growth, share_target, usable
from llmgen.metrics.slo import parse


def test_independent_misses_cost_nothing_and_clustered_ones_do() -> None:
    rng = np.random.default_rng(1)
    found = [effective(rng.random(3000) < 0.97, 30) for _ in range(50)]
    assert np.median(found) > 2300
    clustered = np.ones(3000, bool)
    clustered[1000:1090] = False
    assert effective(clustered, 30) < 200
    assert effective(np.ones(3000, bool), 30) == 3000
    assert effective(np.zeros(3, bool), 30) == 3


def test_intervals_of_clustered_misses_hold() -> None:
    """Bad periods come and go: the variance of the share is that of the effective number of requests."""
    rng = np.random.default_rng(2)
    shares, told = [], []
    for _ in range(300):
        bad = np.repeat(rng.random(60) < 0.1, 40)  # 60 periods of 40 requests
        kept = ~bad
        shares.append(kept.mean())
        told.append(effective(kept, 30))
    true = 0.9 * 0.1 / np.var(shares)
    assert 0.5 * true < np.median(told) < 2 * true


def test_growth_is_a_trend_that_matters() -> None:
    seconds = np.linspace(0, 24, 30)
    rng = np.random.default_rng(3)
    overload = 20 + 5 * seconds + rng.normal(0, 4, 30)  # 5 of 100/s pile up
    assert growth(seconds, overload, 100.0) == (pytest.approx(5, abs=0.5), True)
    assert not growth(seconds, 20 + 0.5 * seconds, 100.0)[1], "half a percent is less than may be left undone"
    assert not growth(seconds, overload[::-1], 100.0)[1]
    steady = [growth(seconds, rng.poisson(30, 30).astype(float), 100.0)[1] for _ in range(200)]
    assert np.mean(steady) < 0.05


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ((), "no objectives"),
        (("requests_per_s>=10",), "low rates miss"),
        (("ttft>1ms",), "low rates miss"),
        (("goodput<0.5", "ttft<1s"), "low rates miss"),
        (("goodput>=1", "ttft<1s"), "below 1"),
        (("error_rate<=0%",), "below 1"),
        (("goodput>=0.9",), "needs limits"),
    ],
)
def test_objectives_that_a_search_cannot_use(texts: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        usable([parse(text) for text in texts])


def test_the_target_is_that_of_a_goodput_objective() -> None:
    assert share_target([parse("ttft<1s")]) == 0.99
    assert share_target([parse("ttft<1s"), parse("goodput>=0.95"), parse("goodput>=0.999", "chat")]) == 0.95
    usable([parse("ttft<1s"), parse("goodput>=0.95"), parse("error_rate<=1%"), parse("itl_p99<1s")])
