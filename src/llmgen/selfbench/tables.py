"""What the terminal and the page show: tables of text, made once for both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from llmgen.report.canvas import number, share
from llmgen.selfbench.conclusions import beside
from llmgen.selfbench.figures import Limit, Ramp, SelfBench, Step

ENDED_BY: Final = {
    "client": "the client's core",
    "pacing": "late or uneven sending",
    "server": "the server's core",
    "machine": "this machine",
    "not_reached": "nothing yet",
}
NONE: Final = "–"


class Table(NamedTuple):
    title: str
    note: str
    head: tuple[str, ...]  # but for the first column
    rows: tuple[tuple[str, ...], ...]


def tables(found: SelfBench) -> list[Table]:
    """Those that have rows."""
    return [table for table in (limits(found), errors(found), lags(found), memory(found)) if table.rows]


def limits(found: SelfBench) -> Table:
    rows = tuple(
        (
            f"{ramp.protocol} {ramp.shape}/s",
            _limit(ramp.limit),
            NONE if ramp.limit.by_cpu is None else f"{ramp.limit.by_cpu:,.0f}",
            NONE if (cost := _cost(ramp)) is None else number(cost),
            ENDED_BY[ramp.limit.cause],
        )
        for ramp in found.ramps
    )
    head = ("a core", "by CPU", "µs/event", "ended by")
    return Table("LIMITS", "while the verdict stood; > the client is good for more", head, rows)


def limit_notes(found: SelfBench) -> list[str]:
    """Why each climb ended, in the verdict's words."""
    return [f"{r.protocol} {r.shape}/s: {r.limit.reason}" for r in found.ramps if r.limit.reason is not None]


def errors(found: SelfBench) -> Table:
    rows = []
    for ramp, step in _steps(found, "events"):
        cells = [_ms(error, name) for error in (step.ttft, step.gap) for name in ("p50_error_ms", "p99_error_ms")]
        rows.append((ramp.protocol, f"{step.events_per_s:,.0f}", share_of(step.client_share), *cells, step.verdict))
    head = ("events/s", "client", "TTFT p50", "p99", "gap p50", "p99", "verdict")
    return Table("ERROR", "reported minus what the server logged, ms", head, tuple(rows))


def lags(found: SelfBench) -> Table:
    loops = () if found.timer_loop is None else found.timer_loop.by_rate
    rows = []
    for ramp, step in _steps(found, "requests"):
        loop = beside(step, loops)
        late = (NONE, NONE) if loop is None else (number(loop.p50_us / 1000), number(loop.p99_us / 1000))
        own = (NONE if lag is None else number(lag) for lag in (step.lag_p50_ms, step.lag_p99_ms))
        rows.append(
            (ramp.protocol, f"{step.rate:,.0f}", share_of(step.client_share), *own, *late, step.verdict),
        )
    head = ("req/s", "client", "p50", "p99", "C loop", "p99", "verdict")
    return Table("SCHEDULE LAG", "ms; beside it a plain C loop at the nearest rate", head, tuple(rows))


def memory(found: SelfBench) -> Table:
    rows = tuple(
        (one.protocol, f"{one.streams:,}", f"{one.base_mb:.1f}", f"{one.mb:.1f}", f"{one.bytes_per_stream:,.0f}")
        for one in found.memory
    )
    base = next((f"{one.base_streams}" for one in found.memory), "few")
    return Table("MEMORY", "the worker's own", ("streams", f"MB with {base}", "MB with all", "B a stream"), rows)


def timer_text(found: SelfBench) -> str:
    if found.timer_loop is None:
        return ""
    loops = found.timer_loop.by_rate
    parts = [f"{one.p50_us:,.0f}, {one.p99_us:,.0f} µs at {one.rate:,.0f}/s" for one in loops]
    return "late by " + "; ".join(parts) + " (p50, p99)"


def where(found: SelfBench) -> str:
    place = found.placement
    many = len(place.server_cores) > 1
    server = f"core{'s' if many else ''} {', '.join(map(str, place.server_cores))}"
    return f"client on core {place.client_core}, embedded server on {server}"


def share_of(value: float) -> str:
    return share(round(value, 2))


def _steps(found: SelfBench, shape: str) -> Iterator[tuple[Ramp, Step]]:
    """By protocol, then by rate."""
    for ramp in found.ramps:
        if ramp.shape == shape:
            for step in sorted(ramp.steps, key=lambda one: one.rate):
                yield ramp, step


def _limit(limit: Limit) -> str:
    if limit.per_s is None:
        return NONE
    mark = "> " if limit.at_least else ""
    return f"{mark}{limit.per_s:,.0f}{'*' if limit.reserved else ''}"


def _cost(ramp: Ramp) -> float | None:
    """CPU of an event at the limit."""
    return next((step.cpu_us_per_event for step in ramp.steps if step.rate == ramp.limit.rate), None)


def _ms(error: object, name: str) -> str:
    value = getattr(error, name, None)
    return NONE if value is None else f"{value:+.3f}" if abs(value) >= 0.0005 else "0"
