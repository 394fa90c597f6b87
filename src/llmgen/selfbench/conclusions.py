"""What follows from the steps: where the verdict turned and why, the next rate to try, what the box can offer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from llmgen.metrics.verdict import WORKER_CPU_TARGET, Thresholds
from llmgen.selfbench.figures import Capacity, Cause, Limit, Loop, Placement, Ramp, Step
from llmgen.selfbench.lag import nearest

LIMITS: Final = Thresholds()
SERVER_FULL: Final = 0.95  # of a core: beyond it the server writes late, and more load asks nothing more of the client
OTHERS: Final = 0.1  # of the client's core: beyond it the client cannot have 85 % and what bursts need
LEAST_GROWTH: Final = 1.2  # a smaller step is lost in the noise of a shared machine
HEADROOM: Final = 0.9  # of the way to the load at which a core would be full: the cost of an event falls with the load
NO_SHARE: Final = 0.005  # below, a share is rounding
LEAST_REFINED: Final = 1.15  # a limit known to that is known
BY_CHANCE: Final = 2.0  # growth after a step that may have failed by chance
NEAR: Final = 1.5  # two failures that close above a load that held are no chance
LOWEST: Final = 1 / 16  # of the first rate, when even that fails


def per_s(step: Step, shape: str) -> float:
    return step.events_per_s if shape == "events" else step.requests_per_s


def held(step: Step) -> bool:
    """Whether the verdict stood, as it would over a longer run: the processor's share is that of the plateau."""
    return step.verdict == "valid" and not step.failed and step.client_share <= LIMITS.suspect_worker_cpu


def cause(step: Step, loops: tuple[Loop, ...], placement: Placement) -> Cause:
    """Whose fault it is that a step did not hold."""
    disturbed = (step.other_share or 0.0) > OTHERS and not uneven(step)
    if disturbed and step.client_share <= LIMITS.suspect_worker_cpu:
        return "machine"
    if step.client_share >= WORKER_CPU_TARGET:
        return "client"
    if step.server_share >= SERVER_FULL:
        return "server"
    if placement.shared or (step.steal_pct or 0.0) > LIMITS.suspect_steal_pct:
        return "machine"
    return "machine" if off(beside(step, loops)) else "pacing"


def uneven(step: Step) -> bool:
    """Gaps far from the planned ones though no request was late by much: wake-ups are too coarse for this rate."""
    lag, distance = step.lag_p99_ms, step.ks_distance
    return lag is not None and distance is not None and lag <= LIMITS.suspect_lag_ms and distance > LIMITS.suspect_ks


def beside(step: Step, loops: tuple[Loop, ...]) -> Loop | None:
    """The plain C loop to compare with: that of the same seconds, else that of the nearest rate."""
    return step.loop or (nearest(loops, step.rate) if loops else None)


def off(loop: Loop | None) -> bool:
    if loop is None:
        return False
    return loop.p99_us > LIMITS.suspect_lag_ms * 1000 or (loop.ks_distance or 0.0) > LIMITS.suspect_ks


def reason(step: Step, loops: tuple[Loop, ...]) -> str:
    """The verdict's first reason, without what it guesses about the rest of the machine: that is measured here."""
    if step.reasons:
        text = step.reasons[0].partition(";")[0]
    elif step.failed:
        text = f"{step.failed} requests failed"
    else:
        text = f"the worker used {step.client_share:.0%} of its core (limit {LIMITS.suspect_worker_cpu:.0%})"
    loop, others = beside(step, loops), step.other_share or 0.0
    if loop is not None and uneven(step) and off(loop) and loop.ks_distance is not None:
        return f"{text}; those of a C loop are off by {loop.ks_distance:.2f} at {loop.rate:,.0f}/s"
    if others > OTHERS and not uneven(step):
        return f"{text}; other programs used {others:.0%} of its core"
    return text


def limit(steps: Sequence[Step], shape: str, loops: tuple[Loop, ...], placement: Placement) -> Limit:
    """The highest step that held; a step that failed below it was disturbed by something else."""
    good = [step for step in steps if held(step)]
    reserved = not good
    if reserved:
        good = [step for step in steps if step.verdict in ("valid", "suspect") and not step.failed]
    if not good:
        worst = min(steps, key=lambda step: step.rate, default=None)
        why: Cause = "not_reached" if worst is None else cause(worst, loops, placement)
        told = None if worst is None else reason(worst, loops)
        return Limit(per_s=None, rate=None, events_per_request=None, cause=why, reason=told, reserved=True)
    top = max(good, key=lambda step: step.rate)
    failed = [step for step in steps if not held(step) and (step.rate > top.rate or reserved)]
    if failed:
        first = min(failed, key=lambda step: step.rate)
        why, told = cause(first, loops, placement), reason(first, loops)
    elif top.server_share >= SERVER_FULL:
        why, told = "server", f"the embedded server used {top.server_share:.0%} of its core"
    else:
        why, told = "not_reached", None
    value = per_s(top, shape)
    by_cpu = value * LIMITS.suspect_worker_cpu / max(top.client_share, NO_SHARE)
    return Limit(
        per_s=value,
        rate=top.rate,
        events_per_request=top.events_per_request,
        cause=why,
        reason=told,
        reserved=reserved,
        by_cpu=max(value, by_cpu),
    )


# -- the next step ------------------------------------------------------------------------------------------------


def next_rate(
    steps: Sequence[Step], first: float, growth: float, loops: tuple[Loop, ...], placement: Placement
) -> float | None:
    """Up by what the busier core still has free, at most `growth` times; back half the way where a core was full.

    A step that failed with no core full may have failed by chance: a higher one that holds says so, and is tried first,
    then, unless the machine is disturbed, one below the lowest that failed. None: the limit is found.
    """
    if not steps:
        return first
    last = steps[-1]
    top = max((step.rate for step in steps if held(step)), default=None)
    above = [step for step in steps if not held(step) and (top is None or step.rate > top)]
    full = [step.rate for step in above if cause(step, loops, placement) in ("client", "server")]
    if held(last):
        near = len(above) > 1 and min(step.rate for step in above) <= NEAR * last.rate
        if last.server_share >= SERVER_FULL or full or near:
            return None
        return last.rate * _factor(last, growth)
    if last.rate in full:
        if top is None:
            return last.rate / 4 if last.rate > first * LOWEST else None
        return math.sqrt(top * last.rate) if len(full) == 1 and last.rate / top > LEAST_REFINED else None
    lowest = min((step.rate for step in above), default=last.rate)
    if len(above) % 2 == 1 or (not uneven(last) and cause(last, loops, placement) == "machine"):
        return last.rate * min(BY_CHANCE, _factor(last, growth))
    return lowest if top is None else math.sqrt(top * lowest)


def _factor(step: Step, growth: float) -> float:
    room = min(
        LIMITS.suspect_worker_cpu / max(step.client_share, NO_SHARE), SERVER_FULL / max(step.server_share, NO_SHARE)
    )
    return min(growth, max(LEAST_GROWTH, HEADROOM * room))


# -- the sentence -------------------------------------------------------------------------------------------------


def capacity(events: Ramp | None, requests: Ramp | None, tokens: int, workers: int) -> Capacity | None:
    """Answers of `tokens` that `workers` can ask for. None where one of the ramps brought nothing."""
    if events is None or requests is None:
        return None
    e, q = events.limit, requests.limit
    if e.rate is None or q.rate is None or e.events_per_request is None or q.events_per_request is None:
        return None
    many, few = e.events_per_request, q.events_per_request
    asked = tokens + max(0.0, many - events.steps[0].tokens)  # events that are no token: role, finish, usage
    rate = workers * full_at(e.rate, many, q.rate, few, asked)
    by_cpu = workers * full_at(e.rate * _spare(e), many, q.rate * _spare(q), few, asked)
    return Capacity(
        workers=workers,
        tokens=tokens,
        requests_per_s=rate,
        tokens_per_s=rate * tokens,
        by_cpu_requests_per_s=max(rate, by_cpu),
        at_least=e.at_least,
        reserved=e.reserved or q.reserved,
    )


def full_at(many_rate: float, many: float, few_rate: float, few: float, events: float) -> float:
    """Requests/s of `events` each that fill a worker which `many_rate` of many and `few_rate` of few events fill.

    A request costs a + n·b for n events, and a worker is full at rate · (a + n·b) = 1: two equations for a and b.
    """
    whole = 1 / many_rate
    per_event = (whole - 1 / few_rate) / (many - few) if many > few else 0.0
    per_request = 1 / few_rate - few * per_event
    if per_event <= 0 or per_request < 0:  # noise: events are all of the cost
        per_event, per_request = whole / many, 0.0
    return 1 / (per_request + events * per_event)


def _spare(found: Limit) -> float:
    return found.by_cpu / found.per_s if found.by_cpu and found.per_s else 1.0


def sentence(found: Capacity | None, events: Ramp | None, requests: Ramp | None) -> str:
    """found: of these two ramps."""
    if found is None:
        why = events.limit.reason if events is not None and events.limit.per_s is None else None
        return "What this box can offer was not measured" + (f": {why}." if why else ".")
    told = "at least" if found.at_least else "about"
    workers = f"{found.workers} worker" + ("" if found.workers == 1 else "s")
    text = (
        f"This box can offer {told} {round_down(found.requests_per_s):,} requests/s × {found.tokens} tokens "
        f"({round_down(found.tokens_per_s):,} tokens/s) with {workers} over HTTP/1.1"
    )
    reserved = next((ramp for ramp in (events, requests) if ramp is not None and ramp.limit.reserved), None)
    if reserved is not None:
        shape, why = reserved.shape, reserved.limit.reason
        text += f", with reservations: the verdict was suspect at every load of the {shape}/s climb ({why})"
    elif found.at_least and events is not None:
        text += f": {AT_LEAST[events.limit.cause]}"
    if found.by_cpu_requests_per_s > BEYOND * found.requests_per_s:
        text += f". By its processor time alone it could offer {round_down(found.by_cpu_requests_per_s):,} requests/s"
    return f"{text}."


BEYOND: Final = 1.2  # an estimate that close to what was measured adds nothing
AT_LEAST: Final[dict[Cause, str]] = {
    "server": "the embedded server's core was full before the client's",
    "machine": "this machine stopped the climb, not the client",
    "not_reached": "the climb ended before a limit",
}


def round_down(value: float) -> int:
    """Two significant digits: more would promise too much."""
    if value < 1:
        return 0
    unit: int = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.floor(value / unit) * unit
