"""Times and counts of the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.errors import ConfigError
from llmgen.simulator import distribution


def draw(text: str, seed: int = 1) -> np.ndarray:
    return distribution.times("itl", text, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("text", "ns"),
    [("20ms", 20_000_000), ("1.5s", 1_500_000_000), ("250us", 250_000), ("1m", 60 * 10**9), ("0", 0), ("0.0", 0)],
)
def test_constants(text: str, ns: int) -> None:
    assert draw(text).tolist() == [ns]


@pytest.mark.parametrize(
    ("text", "mean", "sd"),
    [
        ("uniform:10ms,30ms", 20e6, 20e6 / 12**0.5),
        ("normal:20ms,2ms", 20e6, 2e6),
        ("lognormal:100ms,40ms", 100e6, 40e6),
        ("exponential:20ms", 20e6, 20e6),
    ],
)
def test_moments(text: str, mean: float, sd: float) -> None:
    values = draw(text)
    assert len(values) == distribution.SAMPLES
    assert values.mean() == pytest.approx(mean, rel=0.02)
    assert values.std() == pytest.approx(sd, rel=0.05)
    assert values.min() >= 0


def test_the_seed_decides() -> None:
    assert np.array_equal(draw("exponential:1ms"), draw("exponential:1ms"))
    assert not np.array_equal(draw("exponential:1ms"), draw("exponential:1ms", seed=2))


@pytest.mark.parametrize(
    "text",
    ["20", "20 parsecs", "", "-1ms", "uniform:1ms", "uniform:3ms,1ms", "lognormal:0,1ms", "gauss:1ms,1ms", "25h"],
)
def test_what_is_no_distribution_of_times(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^itl: "):
        draw(text)


def test_counts() -> None:
    rng = np.random.default_rng(1)
    assert distribution.counts("n", "7", rng, 1, 10).tolist() == [7]
    values = distribution.counts("n", "uniform:1,4", rng, 1, 3)
    assert set(values.tolist()) == {1, 2, 3}
    zipf = distribution.counts("n", "zipf:1.5,100", rng, 1, 1000)
    weights = np.arange(1, 101.0) ** -1.5
    assert (zipf == 1).mean() == pytest.approx(1 / weights.sum(), rel=0.03)
    assert zipf.max() <= 100


@pytest.mark.parametrize("text", ["0", "11", "2.5", "x", "zipf:0,10", "zipf:1,0", "nan"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^n: "):
        distribution.counts("n", text, np.random.default_rng(1), 1, 10)
