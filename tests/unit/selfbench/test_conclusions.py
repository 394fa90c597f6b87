"""Limits from steps, the next rate to try, and the sentence that follows."""

from __future__ import annotations

from typing import Any

import pytest

from fabricate_selfbench import APART, NOISY, QUIET, TOGETHER, few, ramp, step
from llmgen.selfbench.conclusions import capacity, cause, full_at, held, limit, next_rate, reason, round_down, sentence
from llmgen.selfbench.figures import Loop, Placement, Step


def test_the_limit_is_the_highest_load_that_held_and_the_first_above_says_why() -> None:
    steps = [step(100), step(400), step(800, "suspect", client=0.9), step(566), step(1600, "invalid", client=1.0)]
    found = limit(steps, "events", QUIET, APART)
    assert (found.rate, found.per_s, found.reserved, found.at_least) == (566, 66 * 566, False, False)
    assert (found.cause, found.reason) == ("client", "late at 800")
    assert found.by_cpu == pytest.approx(66 * 566 * 0.85 / 0.2)
    assert limit(steps, "requests", QUIET, APART).per_s == 566


def test_a_failure_below_a_load_that_held_was_none_of_the_loads() -> None:
    found = limit([step(100, "suspect"), step(400)], "events", QUIET, APART)
    assert (found.rate, found.cause, found.reason) == (400, "not_reached", None)


def test_a_full_server_is_not_blamed_on_the_client() -> None:
    found = limit([step(100), step(400, server=0.98)], "events", QUIET, APART)
    assert (found.cause, found.at_least) == ("server", True)
    assert found.reason is not None
    assert "98%" in found.reason
    beyond = [step(400), step(800, "suspect", client=0.5, server=1.0)]
    assert limit(beyond, "events", QUIET, APART).cause == "server"


def test_without_a_valid_step_the_limit_is_reserved() -> None:
    found = limit([step(100, "suspect"), step(50, "suspect")], "events", NOISY, APART)
    assert (found.rate, found.reserved, found.cause) == (100, True, "machine")
    assert found.reason == "late at 50"


@pytest.mark.parametrize("steps", [[], [step(100, "invalid")], [step(100, "incomplete")], [step(9, failed=3)]])
def test_what_was_not_measured_is_not_made_up(steps: list[Step]) -> None:
    found = limit(steps, "events", QUIET, APART)
    assert (found.per_s, found.by_cpu) == (None, None)


@pytest.mark.parametrize(
    ("failed", "loops", "placement", "why"),
    [
        (step(1000, "suspect", client=0.7, server=1.0), QUIET, APART, "client"),
        (step(1000, "suspect", client=0.5, server=0.96), QUIET, APART, "server"),
        (step(1000, "suspect"), QUIET, APART, "pacing"),
        (step(1000, "suspect"), NOISY, APART, "machine"),
        (step(1000, "suspect"), QUIET, TOGETHER, "machine"),
        (step(1000, "suspect", steal_pct=5.0), QUIET, APART, "machine"),
        (step(1000, "suspect", loop=NOISY[0]), QUIET, APART, "machine"),
        (step(1000, "suspect", loop=QUIET[0]), NOISY, APART, "pacing"),
        (step(1000, "suspect"), (), APART, "pacing"),
        (step(1000, "suspect", client=0.7, other_share=0.3), QUIET, APART, "machine"),
        (step(1000, "suspect", client=0.9, other_share=0.12), QUIET, APART, "client"),
        (step(1000, "suspect", client=0.9, other_share=None), QUIET, APART, "client"),
    ],
)
def test_causes(failed: Step, loops: tuple[Loop, ...], placement: Placement, why: str) -> None:
    assert cause(failed, loops, placement) == why


def test_a_full_core_does_not_hold_whatever_a_short_run_says() -> None:
    assert held(step(100, client=0.85))
    assert not held(step(100, client=0.86))
    assert not held(step(100, failed=1))


def test_the_reason_names_what_was_measured_and_guesses_nothing() -> None:
    disturbed = step(100, "suspect", reasons=("late by 3 ms; other load is the likely cause",), other_share=0.6)
    assert reason(disturbed, QUIET) == "late by 3 ms; other programs used 60% of its core"
    assert reason(step(100, client=0.9), QUIET) == "the worker used 90% of its core (limit 85%)"
    assert reason(step(100, failed=3), ()) == "3 requests failed"
    uneven = step(100, "suspect", reasons=("gaps are 0.2 off",), other_share=0.6, ks_distance=0.2)
    coarse = (Loop(rate=90.0, n=1000, p50_us=20.0, p99_us=90.0, ks_distance=0.15),)
    assert reason(uneven, coarse) == "gaps are 0.2 off; those of a C loop are off by 0.15 at 90/s"
    assert reason(uneven, QUIET) == "gaps are 0.2 off"
    # others are not to blame for what is no lateness
    assert (cause(uneven, coarse, APART), cause(uneven, QUIET, APART)) == ("machine", "pacing")


def climb(machine: Any, first: float = 100.0, most: int = 12) -> list[Step]:
    """Steps as `machine(rate, number)` answers them."""
    steps: list[Step] = []
    while len(steps) < most and (rate := next_rate(steps, first, 4.0, QUIET, APART)) is not None:
        steps.append(machine(rate, len(steps)))
    return steps


def test_the_climb_finds_a_limit_between_its_last_two_rates() -> None:
    steps = climb(lambda rate, _: step(rate, "valid" if rate < 1000 else "suspect", client=rate / 1100))
    rates = [one.rate for one in steps]
    found = limit(steps, "events", QUIET, APART)
    assert rates[:2] == [100, 400]
    assert len(steps) <= 6
    assert found.rate is not None
    assert 830 < found.rate < 1000
    assert found.cause == "client"


def test_the_climb_ends_where_the_server_is_full() -> None:
    steps = climb(lambda rate, _: step(rate, client=rate / 5000, server=min(1.0, rate / 1000)))
    assert steps[-1].server_share >= 0.95
    assert limit(steps, "events", QUIET, APART).cause == "server"


def test_a_step_that_failed_by_chance_does_not_end_the_climb() -> None:
    steps = climb(lambda rate, number: step(rate, "suspect" if number == 1 else "valid", client=rate / 2000))
    assert steps[2].rate > steps[1].rate
    found = limit(steps, "events", QUIET, APART)
    assert found.rate is not None
    assert found.rate > 1000


def test_sending_that_is_late_at_every_high_rate_is_a_limit() -> None:
    steps = climb(lambda rate, _: step(rate, "valid" if rate < 1000 else "suspect", client=rate / 20_000))
    found = limit(steps, "events", QUIET, APART)
    assert found.rate is not None
    assert 500 < found.rate < 1000
    assert found.cause == "pacing"
    assert len(steps) < 12


def test_a_noisy_machine_does_not_end_the_climb() -> None:
    steps: list[Step] = []
    while len(steps) < 8 and (rate := next_rate(steps, 100.0, 4.0, NOISY, APART)) is not None:
        steps.append(step(rate, "suspect", client=rate / 5000))
    assert len(steps) == 8
    assert steps[-1].rate > 1000


def test_a_first_rate_that_is_too_much_is_lowered_but_not_for_ever() -> None:
    steps = climb(lambda rate, _: step(rate, "invalid", client=1.0))
    assert [one.rate for one in steps] == [100, 25, 6.25]


def test_two_full_workers_give_the_cost_of_a_request_and_of_an_event() -> None:
    # 100 us a request and 10 us an event
    many, single = 1 / (100e-6 + 66 * 10e-6), 1 / (100e-6 + 3 * 10e-6)
    assert full_at(many, 66, single, 3, 130) == pytest.approx(1 / (100e-6 + 130 * 10e-6))
    # noise: requests seem to cost nothing, or events
    assert full_at(100, 66, 10_000, 3, 130) == pytest.approx(100 * 66 / 130)
    assert full_at(100, 66, 50, 3, 130) == pytest.approx(100 * 66 / 130)


def test_the_sentence_of_a_client_that_is_the_limit() -> None:
    events = ramp("events", [step(1000, client=0.8), step(1300, "suspect", client=0.95)])
    requests = ramp("requests", [few(8000, client=0.8), few(9000, "suspect", client=0.9)])
    found = capacity(events, requests, 128, 3)
    assert found is not None
    assert found.requests_per_s == pytest.approx(3 * full_at(1000, 66, 8000, 3, 130))
    told = "about 1,500 requests/s × 128 tokens (200,000 tokens/s) with 3 workers over HTTP/1.1"
    assert sentence(found, events, requests) == f"This box can offer {told}."


def test_the_sentence_says_when_it_was_not_the_clients_limit() -> None:
    events = ramp("events", [step(1000, client=0.4, server=0.97)])
    requests = ramp("requests", [few(8000, client=0.8)])
    told = sentence(capacity(events, requests, 128, 1), events, requests)
    assert "at least 520 requests/s" in told
    assert "the embedded server's core was full before the client's" in told
    assert "By its processor time alone" in told


def test_the_sentence_of_a_disturbed_machine() -> None:
    events = ramp("events", [step(100, "suspect", loop=NOISY[0])])
    requests = ramp("requests", [few(500)])
    told = sentence(capacity(events, requests, 128, 1), events, requests)
    assert "with reservations: the verdict was suspect at every load of the events/s climb (late at 100)" in told
    events, requests = ramp("events", [step(100)]), ramp("requests", [few(500, "suspect")])
    told = sentence(capacity(events, requests, 128, 1), events, requests)
    assert "suspect at every load of the requests/s climb (late at 500)" in told


def test_the_sentence_of_nothing() -> None:
    assert sentence(None, None, None) == "What this box can offer was not measured."
    events = ramp("events", [step(100, "incomplete")])
    assert sentence(capacity(events, None, 128, 1), events, None).endswith("not measured: late at 100.")


@pytest.mark.parametrize(("value", "rounded"), [(0.4, 0), (7.9, 7), (99, 99), (128, 120), (87_654, 87_000)])
def test_two_digits(value: float, rounded: int) -> None:
    assert round_down(value) == rounded
