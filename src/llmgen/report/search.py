"""What a search found, in the terminal: the capacity, what limits it, and the rates that were tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.text import Text

from llmgen.errors import RecordError
from llmgen.metrics.capacity import Conclusion, Level, Point
from llmgen.report.canvas import canvas, columns, heading, item, line, number, share
from llmgen.report.escaping import plain
from llmgen.report.series import notes_of

TITLES: Final = ("runs", "kept", "interval", "done/s", "TTFT50", "TTFT99", "E2E50", "")
WORDS: Final = {"meets": "meets", "misses": "misses", "unsure": "unsure", "unmeasured": "client"}
STYLES: Final = {"found": "bold green", "at-least": "bold green", "none": "bold red", "client": "bold red"}


def read_conclusion(told: Mapping[str, Any]) -> Conclusion:
    """`conclusion` of suite.json. RecordError if it is not one that this version reads."""
    try:
        return msgspec.convert(told, Conclusion)
    except msgspec.ValidationError as error:
        raise RecordError(f"suite.json: its conclusion cannot be read: {error}") from None


def render(
    name: str,
    found: Conclusion,
    runs: Sequence[Mapping[str, Any]],
    *,
    finished: bool = True,
    width: int = 80,
    color: bool = False,
) -> str:
    """`runs`: those of suite.json as plain values. finished: False of a search that was interrupted."""
    console, text = canvas(width, color)
    state = headline(found) if finished else f"unfinished: {headline(found)} so far"
    style = STYLES.get(found.outcome, "bold yellow") if finished else "bold yellow"
    console.print(Text.assemble((f"SEARCH {plain(name)}  ", "bold cyan"), (state, style)))
    for label, told in answers(found):
        line(console, label, plain(told))
    heading(console, "RATES", "ms from due; kept: share of the objective nearest to its target")
    table = columns(*TITLES)
    for level in found.levels:
        table.add_row(f"{number(level.rate)} req/s", *cells(level, found.points))
    console.print(table)
    happened = [*events(found), *(f"run {run.get('number')}: {note}" for run in runs for note in notes_of(run))]
    if happened:
        heading(console, "WHAT HAPPENED")
        for each in happened:
            item(console, "•", plain(each), "yellow")
    return text()


def headline(found: Conclusion) -> str:
    if found.capacity is None:
        return {
            "none": "NO RATE MEETS THE OBJECTIVES",
            "client": "THE CLIENT IS THE LIMIT",
        }.get(found.outcome, "UNDECIDED")
    least = "AT LEAST " if found.outcome != "found" else ""
    return f"CAPACITY {least}{number(found.capacity)} REQ/S"


def answers(found: Conclusion) -> list[tuple[str, str]]:
    """Labels and sentences, each true by itself."""
    told = [("objectives", objectives(found)), ("capacity", _capacity(found)), ("above it", _above(found))]
    told.append(("limit", _limit(found)))
    if found.knee is not None:
        told.append(("knee", f"{number(found.knee)} req/s: throughput ÷ latency is largest there"))
    told.append(("runs", f"{len(found.points)} of at most {found.runs}, tolerance {share(found.tolerance)}"))
    return [(label, text) for label, text in told if text]


def objectives(found: Conclusion) -> str:
    targets = {one.name: one.target for point in found.points for one in point.shares}
    named = [f"{share(target)} of the requests keep {name}" for name, target in targets.items()]
    return "; ".join([*named, f"{share(0.99)} complete; in flight does not grow"])


def _capacity(found: Conclusion) -> str:
    if found.capacity is None:
        lowest = found.levels[0] if found.levels else None
        if lowest is None or found.outcome == "client":
            return ""
        kept = "" if lowest.attainment is None else f": {share(lowest.attainment)} kept {lowest.objective}"
        if found.outcome == "none":
            return (
                f"below {number(lowest.rate)} req/s, the lowest rate{kept}; try a lower --rate-min, or look for errors"
            )
        needed = math.ceil(found.requests_needed / lowest.rate)
        return (
            f"not known: a run needs {found.requests_needed:,} requests in its window to prove the target, "
            f"{number(needed)} s at {number(lowest.rate)} req/s; use a longer --duration or a lower --target"
        )
    return (
        f"{number(found.capacity)} req/s is the largest rate tried that meets them "
        f"({share(found.confidence)} confidence)"
    )


def _above(found: Conclusion) -> str:
    parts = []
    if found.upper is not None:
        parts.append(f"{number(found.upper)} req/s misses them")
    if found.estimate is not None:
        parts.append(f"a monotone fit crosses the target at about {number(found.estimate)} req/s")
    return "; ".join(parts)


def _limit(found: Conclusion) -> str:
    why = found.reasons[0] if found.reasons else ""
    if found.limit == "client":
        workers = f"; about {found.workers} workers would be enough" if found.workers else ""
        return f"this client, not the server: {why}{'' if 'workers would' in why else workers}"
    if found.suspect:
        return f"the server, or this client, which is suspect in the runs that fail: {why}"
    if found.limit == "rate-max":
        return "--rate-max: the server may do more"
    if found.limit == "runs" and found.capacity is not None:
        return "--runs: no rate missed the objectives yet"
    return "the server" if found.outcome in ("found", "none") else ""


def cells(level: Level, points: Sequence[Point]) -> list[str]:
    """A rate's figures under TITLES: means over its runs."""
    own = [point for point in points if point.rate == level.rate and point.measured]
    interval = "–"
    if level.low is not None and level.high is not None:
        interval = f"{_percent(level.low)}–{_percent(level.high)}"
    return [
        str(level.runs),
        "–" if level.attainment is None else _percent(level.attainment),
        interval,
        *(_mean(own, name) for name in ("requests_per_s", "ttft_p50_ms", "ttft_p99_ms", "e2e_p50_ms")),
        WORDS[level.verdict],
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value < 0.9995 else "100"


def _mean(points: Sequence[Point], name: str) -> str:
    values = [value for point in points if (value := getattr(point, name)) is not None]
    return number(sum(values) / len(values)) if values else "–"


def events(found: Conclusion) -> list[str]:
    """What else a reader should know of the runs."""
    told = [
        f"run {point.run} is {point.client}, no evidence about the server: {point.reasons[0]}"
        for point in found.points
        if not point.measured and point.reasons
    ]
    suspect = [str(point.run) for point in found.points if point.client == "suspect"]
    if suspect:
        told.append(f"the client may have influenced run {', '.join(suspect)}: see the run's report")
    told += [f"run {point.run} missed {', '.join(point.unmet)}" for point in found.points if point.unmet]
    told += [
        f"run {point.run}: in flight grew by {number(point.growth_per_s or 0)} a second at {number(point.rate)} req/s"
        for point in found.points
        if point.growing
    ]
    return told
