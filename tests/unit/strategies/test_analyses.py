"""What the strategies conclude from steps, spikes and errors made by hand; no run is needed."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest

from fabricate import MS, START, event_rows, request_rows, run_info, write_run
from llmgen.columns import Status
from llmgen.config import Load, RunConfig, Stage, Target, Trace
from llmgen.errors import ConfigError
from llmgen.metrics.conclusion import Step
from llmgen.metrics.goal import goal_of
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.slo import parse_all
from llmgen.metrics.summary import summarise
from llmgen.records import open_run
from llmgen.series import SuiteRun, Taken
from llmgen.strategies import STRATEGIES, load, spike, strategy, stress
from llmgen.strategies.errors import FirstError, told_of
from llmgen.strategies.taking import Test, at_rate, expected_rate, in_stages

GOAL = goal_of(parse_all(["ttft_p95<200ms", "tpot_p95<20ms"], {}))


def step(offered: float, **changes: Any) -> Step:
    """A step of a server whose peak is 30 requests/s of 100 tokens each."""
    served = min(offered, 30.0)
    plain = {
        "label": f"{offered:g} req/s",
        "run": 1,
        "seconds": 15.0,
        "offered_per_s": offered,
        "succeeded_per_s": served,
        "tokens_per_s": 100 * served,
        "ttft_p50_ms": 50.0 if offered < 30 else 900.0,
        "ttft_p95_ms": 80.0 if offered < 30 else 1500.0,
        "tpot_p50_ms": 8.0 + offered / 4,
        "tpot_p95_ms": 9.0 + offered / 2,
        "e2e_p50_ms": 900.0,
        "attainment": 1.0 if offered < 30 else 0.2,
        "error_rate": 0.0,
        "in_flight": offered,
        "growth_per_s": max(0.0, offered - 30),
        "unsettled": offered > 30,
    }
    return Step(**(plain | changes))


def test_where_a_server_bends() -> None:
    answers, figures = load.answered([step(rate) for rate in (8, 16, 24, 32, 40)], GOAL)
    assert figures == {
        "highest_good_rate": 24,
        "latency_climbs_at_rate": 32,
        "plateau_after_rate": 32,
        "tpot_passes_at_rate": 24,
        "peak_tokens_per_s": 3000,
        "peak_requests_per_s": 30,
    }
    told = {one.question: one.text for one in answers}
    assert told["goal kept"] == "up to 24 req/s"
    assert told["token rate"] == "TPOT p95 passes 20 ms at 24 req/s (21 ms)"
    assert told["throughput"] == "plateau beyond 32 req/s, at 3,000 tokens/s"


def test_a_server_that_does_not_bend() -> None:
    answers, figures = load.answered([step(rate) for rate in (4, 8, 12)], goal_of([]))
    assert figures["latency_climbs_at_rate"] is None
    assert figures["plateau_after_rate"] is None
    told = {one.question: one.text for one in answers}
    assert told["latency"].startswith("does not climb")
    assert told["throughput"] == "follows the load up to 12 req/s (1,200 tokens/s)"
    assert "no objective on it" in told["token rate"]


def test_one_slow_step_is_no_climb() -> None:
    steps = [step(8), step(16, ttft_p50_ms=300.0), step(24)]
    assert load.climbing(steps) is None


def test_a_step_that_was_held_longer_replaces_the_first() -> None:
    steps = [step(10), step(20), step(20, label="20 req/s, held 40s", run=3)]
    assert [one.run for one in load.kept(steps)] == [1, 3]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"stopped": "error_rate>10% for 5s was reached"}, "error_rate>10%"),
        ({"error_rate": 0.3}, "30 % of the requests failed"),
        ({"unsettled": True, "growth_per_s": 4.0}, "in flight grew by 4"),
    ],
)
def test_stop_rules(changes: dict[str, Any], why: str | None) -> None:
    one = step(20, **changes)
    for found in (load.stop(one, 0.2), stress.stop(one, 0.2, 0.5)):
        assert found is None if why is None else found is not None and why in found


def test_few_good_requests_stop_the_climb() -> None:
    found = stress.stop(step(20, attainment=0.3), 0.2, 0.5)
    assert found == "30 % of the requests were good (limit 50 %)"


def back(**changes: Any) -> stress.Back:
    plain: dict[str, Any] = {
        "base_rate": 15,
        "over_rate": 45,
        "down_s": 25,
        "end_s": 85,
        "overload": step(45),
        "recovered_s": 12.5,
    }
    return stress.Back(**(plain | changes))


def test_overload_and_back() -> None:
    climb = [step(15), step(21), step(29.4), step(41.2)]
    assert stress.rates(climb, GOAL, 1.5) == (15, 45)
    assert stress.rates([step(28), step(41)], GOAL, 1.1) == (15, 41), "no room at 28: half of the peak"
    answers, figures = stress.answered(climb, "in flight grew", back(), [])
    assert figures["recovery_s"] == 12.5
    assert figures["overload_throughput_share"] == 1.0
    told = {one.question: one.text for one in answers}
    assert told["overload"].startswith("graceful: 100 % of the peak's answers/s came at 45 req/s")
    assert told["recovery"] == "12.5 s after the overload, at 15 req/s"
    assert not stress.failed(GOAL, climb, back())


def test_collapse_and_no_recovery_fail() -> None:
    climb = [step(15), step(41)]
    sunk = back(overload=step(45, succeeded_per_s=10.0), recovered_s=None)
    failures = stress.failed(GOAL, climb, sunk)
    assert any("collapsed under overload, to 33 %" in one for one in failures)
    assert any("not within the 60 s" in one for one in failures)
    assert stress.failed(GOAL, [step(40)], None), "the expected rate itself misses the goal"


def test_first_errors_in_words() -> None:
    full = FirstError("http_5xx", 3, "40 req/s", 4.25, 17, "CUDA out of memory. Tried to allocate 2 GiB")
    assert told_of([full]).startswith("http_5xx at 4.2 s of run 3 (40 req/s), 17 of it: the server is out of memory")
    assert told_of([]) == "none"


# -- a spike -----------------------------------------------------------------------------------------------------------


def spiked(path: Any, *, late_s: float, failing: tuple[float, float] | None = None) -> Measurements:
    """20 requests/s for 60 s; from 20 s on they are late for `late_s`."""
    rows = request_rows(1200, every_ms=50, ttft_ms=50, tokens=5)
    at = (rows["due"] - START) / 1e9
    slow = (at >= 20) & (at < 20 + late_s)
    for name in ("first_event", "first_token", "first_visible", "last_token", "end"):
        rows[name][slow] += 900 * MS
    if failing is not None:
        rows["status"][(at >= failing[0]) & (at < failing[1])] = Status.rate_limited
    return Measurements(open_run(write_run(path, rows, event_rows(rows), run_info(1200, every_ms=50))))


def test_a_spike_that_is_taken_in(tmp_path: Any) -> None:
    m = spiked(tmp_path / "run", late_s=6, failing=(21, 22))
    one = spike.spike_of(m, GOAL, 20.0, 40.0, 60.0)
    assert one.taken_in_s == pytest.approx(6, abs=0.4)
    assert one.recovered_s == 0
    assert one.failures == 20
    assert spike.outside(m, [one]) == 0
    answers, figures = spike.answered([one], 0, [])
    assert figures["spike_1.taken_in_s"] == one.taken_in_s
    assert "taken in 5." in answers[0].text or "taken in 6." in answers[0].text
    assert not spike.verdict_of(GOAL, step(20), [one])


def test_a_spike_that_is_not_got_over(tmp_path: Any) -> None:
    m = spiked(tmp_path / "run", late_s=40, failing=(10, 11))
    one = spike.spike_of(m, GOAL, 20.0, 40.0, 60.0)
    assert (one.taken_in_s, one.recovered_s) == (None, None)
    assert spike.outside(m, [one]) == 20
    (failure,) = spike.verdict_of(GOAL, step(20), [one])
    assert failure == "spike 1: never taken in; not got over within the 20 s that were watched (--watch)"


def test_the_schedule_of_spikes() -> None:
    stages, edges = spike.schedule(10.0, spike.Parameters(factor=2, spikes=2, before=5, spike=3, watch=4))
    assert stages == [(10, 5), (20, 3), (10, 4), (20, 3), (10, 4)]
    assert edges == [(5, 8, 12), (12, 15, 19)]


# -- what they share ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (Load(), 1),
        (Load(rate=5), 5),
        (Load(rate=5, rate_to=8), 8),
        (Load(stages=(Stage(rate=3, duration=5), Stage(to=9, duration=5))), 9),
    ],
)
def test_the_rate_that_a_test_is_about(given: Load, rate: float) -> None:
    assert expected_rate(RunConfig(load=given)) == rate


@pytest.mark.parametrize("given", [Load(concurrency=3), Load(trace=Trace(file="x")), Load(rate=float("inf"))])
def test_loads_without_a_rate_are_refused(given: Load) -> None:
    with pytest.raises(ConfigError, match="steps through rates"):
        expected_rate(RunConfig(load=given))


def test_the_runs_of_steps() -> None:
    config = RunConfig(seed=7, target=Target(urls=("http://h",)), load=Load(rate=10, requests=5, cooldown="10%"))
    one = at_rate(config, 4, 20, 3)
    assert (one.load.rate, one.load.duration, one.load.requests, one.load.warmup) == (4, 20, None, 5)
    assert (one.load.cooldown, one.seed) == (0, 10), "no step meets the prompts of another in the prefix cache"
    staged = in_stages(config, [(4, 5), (12, 6)], 1)
    assert [(stage.rate, stage.duration) for stage in staged.load.stages] == [(4, 5), (12, 6)]
    assert (staged.load.rate, staged.load.duration, staged.load.warmup) == (None, None, 0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_parameter_has_its_help_and_every_strategy_its_text(name: str) -> None:
    module = strategy(name)
    fields = [field.name for field in msgspec.structs.fields(module.Parameters)]
    assert list(module.HELP) == fields
    for part in ("Schedule", "Stops", "Verdict"):
        assert part in module.__doc__
    assert typing.get_type_hints(module.Parameters)["target"] == float | None


def test_a_test_that_was_killed_between_steps_has_not_passed(tmp_path: Any) -> None:
    class Fake:
        """A series with one run on disk that keeps what is concluded."""

        told: Any = None

        def run(self, label: str, config: RunConfig, **_: Any) -> Taken:
            rows = request_rows(100)
            path = write_run(tmp_path / "run", rows, event_rows(rows), run_info(100))
            number = SuiteRun(number=1, seed=1, label=label, state="complete", verdict="valid")
            return Taken(number, path, summarise(open_run(path)), 0)

        def conclude(self, conclusion: Any, outcome: str) -> None:
            self.told = (conclusion.verdict, outcome)

    fake = Fake()
    test = Test("load", "?", RunConfig(), fake, None)  # type: ignore[arg-type]
    test.step("10 req/s", RunConfig(), 10)
    assert fake.told == ("incomplete", "incomplete")
    assert test.finish(test.summing()).verdict == "passed"
    assert fake.told == ("passed", "passed")
