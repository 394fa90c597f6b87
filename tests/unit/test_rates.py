"""Stages of every kind as curves, and schedules that come in bursts or in exact numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgen.config import Load, Stage
from llmgen.errors import ConfigError
from llmgen.rates import staged
from llmgen.schedule import check, due_blocks

NS = 10**9


def due(load: Load, seed: int = 1) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *due_blocks(load, seed)])


def rate_at(stages: tuple[Stage, ...], t: float, before: float | None = None) -> float:
    """The slope of the integral, which is the rate."""
    curve = staged(stages, before)
    step = 1e-6
    return (curve.integral(t + step) - curve.integral(t - step)) / (2 * step)


def stage(seconds: float, **kind: Any) -> Stage:
    return Stage(duration=seconds, **kind)


def test_steps_on_the_way() -> None:
    stages = (stage(10, rate=10), stage(30, to=40, steps=3), stage(5, to=0))
    assert [rate_at(stages, t) for t in (5, 15, 25, 35)] == pytest.approx([10, 20, 30, 40], rel=1e-6)
    assert rate_at(stages, 42.5) == pytest.approx(20, rel=1e-6)


def test_after_a_spike_the_rate_before_comes_back() -> None:
    stages = (stage(10, rate=10), stage(2, spike=7.0), stage(10, to=20))
    assert rate_at(stages, 11) == pytest.approx(70, rel=1e-6)
    assert rate_at(stages, 12 + 1e-3) == pytest.approx(10, rel=1e-3)
    assert rate_at(stages, 17) == pytest.approx(15, rel=1e-6)
    assert rate_at((stage(5, spike=0.0), stage(5, to=9)), 2, before=3.0) == 0


def test_a_swing() -> None:
    stages = (stage(250, rate=20, sine=0.5, period=100.0),)
    for t in (0.3, 10, 25, 60, 75, 99, 130, 249):
        assert rate_at(stages, t) == pytest.approx(20 * (1 + 0.5 * math.sin(2 * math.pi * t / 100)), abs=0.01)
    whole = staged((stage(300, rate=20, sine=1.0, period=100.0),), None)
    assert whole.integral(300) == pytest.approx(6000, rel=1e-6)
    found = due(Load(stages=(stage(1000, rate=20, sine=0.9, period=100.0),))) / NS
    counts = np.histogram(found % 100, bins=10, range=(0, 100))[0]
    middle = np.arange(10) * 10 + 5
    expected = 2000 * (1 + 0.9 * np.sin(2 * np.pi * middle / 100))
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected) + 30)


def test_rates_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("seconds,rate\n# a comment\n0,10\n10,20\n10,50\n20,0\n")
    stages = (stage(30, file=str(path)), stage(10, to=8))
    assert [rate_at(stages, t) for t in (5, 15)] == pytest.approx([15, 25], rel=1e-6)
    assert rate_at(stages, 25) == 0
    assert rate_at(stages, 35) == pytest.approx(4, rel=1e-6)  # from the file's last rate
    assert rate_at((stage(8, file=str(path)),), 7) == pytest.approx(17, rel=1e-6)
    path.write_text("5,10\n")
    assert rate_at((stage(30, file=str(path)),), 1) == pytest.approx(10)


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "0 rows"), ("1,2\nx,3\n", "row 2 is 'x,3'"), ("1,2\n0,3\n", "never go back"), ("1,-2\n", "requests/s"),
     ("1,2,3\n2,3,4\n", "row 2")],
)  # fmt: skip
def test_a_broken_file_of_rates(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why):
        staged((stage(5, file=str(path)),), None)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({"rate": 1.0, "to": 2.0, "spike": 3.0}, "to and spike contradict"),
        ({"rate": 1.0, "steps": 3}, "steps=3"),
        ({"rate": 1.0, "to": 2.0, "steps": 0}, "steps=0"),
        ({"rate": 1.0, "spike": -1.0}, "spike=-1"),
        ({"rate": 1.0, "sine": 0.5}, "need each other"),
        ({"rate": 1.0, "period": 5.0}, "need each other"),
        ({"rate": 1.0, "sine": 1.5, "period": 5.0}, "sine=1.5"),
        ({"rate": 1.0, "sine": 0.5, "period": 1e-4}, "period=0.0001"),
        ({"spike": 2.0}, "no stage before"),
        ({"file": "/no/such"}, "cannot be read"),
        ({"file": "x", "rate": 1.0}, "the file tells the rates"),
        ({}, "needs `rate`"),
    ],
)
def test_stages_that_cannot_be(kind: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        staged((stage(5, **kind),), None)
    assert "load.stages[0]" in str(caught.value)


# -- bursts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrival", ["onoff:5s,10s", "mmpp:10,5s,20s", "onoff:1ms,1ms"])
def test_bursts_offer_the_rate_on_the_whole(arrival: str) -> None:
    found = due(Load(arrival=arrival, rate=20, duration=20_000))
    assert np.all(np.diff(found) >= 0)
    assert len(found) == pytest.approx(400_000, rel=0.04)


def test_on_and_off_is_what_it_says() -> None:
    found = due(Load(arrival="onoff:4s,12s", rate=200, duration=4000)) / NS
    gaps = np.diff(found)
    silences = gaps[gaps > 0.5]  # within a burst, at 800/s, none comes near it
    cycles = 4000 / 16
    assert len(silences) == pytest.approx(cycles * math.exp(-0.5 / 12), rel=0.2)
    assert silences.mean() == pytest.approx(12.5, rel=0.2)
    within = gaps[gaps < 0.02]  # 16 mean gaps; few silences are so short
    assert 1 / within.mean() == pytest.approx(800, rel=0.02)
    assert within.std() / within.mean() == pytest.approx(1.0, abs=0.03)


def test_bursts_last_where_a_renewal_process_forgets() -> None:
    """Overdispersion of counts grows with the time over which they are taken; a gamma process of that CV stays."""

    def dispersion(load: Load, seconds: int) -> float:
        counts = np.bincount(due(load) // (seconds * NS), minlength=20_000 // seconds)[:-1]
        return float(counts.var() / counts.mean())

    modulated = Load(arrival="mmpp:20,10s,30s", rate=20, duration=20_000)
    assert dispersion(modulated, 1) > 10
    assert dispersion(modulated, 10) > 5 * dispersion(modulated, 1)
    assert dispersion(Load(arrival="gamma:4", rate=20, duration=20_000), 10) < 25


def test_bursts_follow_stages_and_do_not_depend_on_what_follows() -> None:
    stages = (stage(400, rate=10), stage(400, rate=0), stage(400, to=40))
    whole = due(Load(arrival="onoff:2s,3s", stages=stages))
    found = whole / NS
    assert not np.any((found > 400) & (found < 800))
    assert found.max() < 1200
    first = due(Load(arrival="onoff:2s,3s", rate=10, duration=300))
    np.testing.assert_array_equal(first, whole[whole < 300 * NS])
    assert check(Load(arrival="onoff:2s,3s", rate=1, duration=9)).describe() == "onoff:2s,3s 1/s"
    assert check(Load(arrival="mmpp:4,2s,3s", rate=1, duration=9)).describe() == "mmpp:4,2s,3s 1/s"


@pytest.mark.parametrize("seed", range(5))
def test_the_first_state_is_chosen_by_chance(seed: int) -> None:
    starts = [
        due(Load(arrival="onoff:100s,300s", rate=50, duration=5), seed=s) for s in range(40 * seed, 40 * seed + 40)
    ]
    on = sum(len(each) > 0 for each in starts)
    assert 2 <= on <= 20  # a quarter of 40, give or take three deviations


@pytest.mark.parametrize(
    ("arrival", "why"),
    [("onoff", "write onoff:ON,OFF"), ("onoff:1s", "write onoff"), ("onoff:0s,1s", "mean times are from"),
     ("onoff:1s,2s,3s", "write onoff"), ("mmpp:1,1s,1s", "must be above 1"), ("mmpp:x,1s,1s", "write mmpp"),
     ("mmpp:nan,1s,1s", "must be above 1"), ("mmpp:2,1s", "write mmpp")],
)  # fmt: skip
def test_bursts_that_cannot_be(arrival: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check(Load(arrival=arrival, rate=1))


# -- exact numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrival", ["poisson", "gamma:4", "weibull:0.5"])
def test_normalised_to_the_number_of_requests(arrival: str) -> None:
    for requests in (1, 7, 20_000):
        found = due(Load(arrival=arrival, rate=50, requests=requests, normalize=True))
        assert len(found) == requests
        assert found[-1] == pytest.approx(requests / 50 * NS, abs=2)


@pytest.mark.parametrize("arrival", ["poisson", "gamma:4", "constant"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_normalised_to_the_duration(arrival: str, seed: int) -> None:
    found = due(Load(arrival=arrival, rate=40, duration=500, normalize=True), seed)
    assert len(found) == 20_000
    assert found[-1] < 500 * NS
    if arrival != "constant":
        gaps = np.diff(found)
        assert gaps.std() / gaps.mean() == pytest.approx(check(Load(arrival=arrival)).arrival.cv, rel=0.1)


def test_normalised_stages() -> None:
    stages = (stage(100, rate=10), stage(100, to=30))
    found = due(Load(stages=stages, normalize=True)) / NS
    assert len(found) == 3000
    assert np.count_nonzero(found < 100) == pytest.approx(1000, abs=100)
    assert len(due(Load(stages=stages, normalize=True, requests=500))) == 500


@pytest.mark.parametrize("load", [Load(concurrency=3), Load(arrival="onoff:1s,1s"), Load(rate=math.inf, requests=3)])
def test_what_cannot_be_normalised(load: Load) -> None:
    import msgspec

    with pytest.raises(ConfigError, match=r"load\.normalize"):
        check(msgspec.structs.replace(load, normalize=True))
