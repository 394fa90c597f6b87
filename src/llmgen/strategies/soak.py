"""Is the server still the same after hours at its expected load?

\b
Schedule
  one run at the expected rate (--rate) for --length, at level requests: memory
  and disk stay bounded. The first part (--settle) is not judged: caches fill.
Stops
  its length; client.abort_on (--abort-on) as in any run. A server that goes away
  is waited for: the load goes on, and what it missed are failed requests.
Answers
  drift by minute (Theil-Sen slope, Mann-Kendall test corrected for
  autocorrelation, and a threshold) of latencies, errors and tokens/s; with
  --telemetry also of the server's memory, KV cache, prefix hits, evictions and
  preemptions; restarts and how long each took.
Verdict
  passed if the goal was kept, nothing drifts for the worse, and the server did
  not restart more often than --restarts.

Everything is on disk as it happens: llmgen report tells of a soak that was
killed up to its end. Started again it begins anew, beside what there is.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from llmgen.config import RunConfig
from llmgen.decoding import Seconds, wrong
from llmgen.durations import format_duration
from llmgen.metrics.conclusion import Answer, Conclusion, Mark, Outage
from llmgen.metrics.figures import Summary, Trend
from llmgen.metrics.goal import goal_of
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.stability import HELD, MIN_WINDOWS, NAMES, change_told
from llmgen.metrics.steps import course_of
from llmgen.metrics.summary import summarise
from llmgen.records import open_run
from llmgen.series import Series, Suite, Taken, in_use
from llmgen.strategies.taking import TARGET_HELP, Test, at_rate, expected_rate, missed, objectives_missed, told

ASKS: Final = "is the server still the same after hours at its expected load?"
SETTLE_SHARE: Final = 0.1  # of the length,
SETTLE_S: Final = 300.0  # at most: long enough for caches, thread pools and GPU temperature
PARTS: Final = 8  # rows of the table
SAME_S: Final = 5.0  # a restart that telemetry saw so close to an outage is that outage's
SERVER: Final = (*HELD, "prefix_hit_rate", "evicted_share", "preemption_rate")


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    length: Annotated[float, Seconds] = 3600.0
    settle: Annotated[float | None, Seconds] = None
    restarts: int = 0
    target: float | None = None


HELP: Final = {
    "length": "How long the load lasts.",
    "settle": "Cut from its beginning.  [default: a tenth of the length, 5m at most]",
    "restarts": "Restarts of the server that are allowed.",
    "target": TARGET_HELP,
}


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """The target went away, or its process is a new one. until_s: the first success after it; None: not known."""

    at_s: float
    until_s: float | None
    seen: str


def check(config: RunConfig, parameters: Parameters) -> float:
    """The rate of the soak. ConfigError."""
    if parameters.length <= 0:
        raise wrong("--length", parameters.length, "must be above 0")
    return expected_rate(config)


def run(config: RunConfig, series: Series, parameters: Parameters) -> Conclusion:
    rate = check(config, parameters)
    settle = parameters.settle
    if settle is None:
        settle = min(SETTLE_SHARE * parameters.length, SETTLE_S)
    test = Test("soak", ASKS, config, series, parameters.target)
    test.summing = lambda: judged(test, parameters)
    label = f"{told(rate)} for {format_duration(parameters.length)}"
    load = at_rate(config, rate, parameters.length, 0, **{"load.warmup": settle, "record": "requests"})
    # one try: hours are not offered again because a worker died in their last minute
    test.run(label, load, rate, tries=1)
    return test.finish(judged(test, parameters))


def so_far(directory: Path, suite: Suite) -> Conclusion | None:
    """What a soak shows that runs now, or whose controller was killed: from the records as they are."""
    one = next((one for one in reversed(suite.runs) if one.directory is not None), None)
    if one is None or not (directory / str(one.directory)).is_dir():
        return None
    parameters = msgspec.convert(suite.parameters, Parameters)
    summary = summarise(open_run(directory / str(one.directory)))
    run = msgspec.structs.replace(one, state="incomplete", verdict=summary.verdict.status)
    test = Test("soak", ASKS, RunConfig(), Series(directory, suite, {}), parameters.target)
    m = test.keep(Taken(run, directory / str(one.directory), summary, 0))
    test.goal = goal_of(m.slos, parameters.target)
    found = judged(test, parameters)
    why = "it still runs: this is what it shows so far"
    if not in_use(directory):
        why = "its controller was killed: this is what it had recorded"
    return msgspec.structs.replace(found, reasons=[why, *found.reasons[1:]])


# -- what it shows -----------------------------------------------------------------------------------------------------


def judged(test: Test, parameters: Parameters) -> Conclusion:
    """Of the one run, whole or broken off."""
    if not test.runs:
        return test.concluded([], [], {})
    taken = test.runs[-1]
    run = taken.open()
    m, summary = Measurements(run), taken.summary
    lasted = lasted_s(m)
    settled = (m.window[0] - m.start_ns) / 1e9
    restarts = restarts_of(test.outages, summary)
    whole = test.measured(m, "whole", taken, (settled if settled < lasted else 0.0, lasted))
    test.steps = [test.measured(m, f"{clock(a)} to {clock(b)}", taken, (a, b)) for a, b in parts(lasted) if b - a > 0]
    ended = ended_told(m, run.info, lasted, parameters.length)
    failures = [
        *missed(test.goal, whole, "over all"),
        *objectives_missed(taken, "over all"),
        *(f"{NAMES.get(one.metric, one.metric)} drifts: {change_told(one)}" for one in summary.stability if one.worse),
    ]
    if len(restarts) > parameters.restarts:
        failures.append(f"the server restarted {times(len(restarts))}; {parameters.restarts} allowed (--restarts)")
    if taken.step.stopped is not None:
        failures.append(f"stopped after {clock(lasted)}: {taken.step.stopped}")
    marks = [Mark(t_s=one.at_s, text="away" if one.until_s is not None else "restart") for one in restarts]
    return test.concluded(
        failures,
        [Answer(question="length", text=ended), *answered(summary, restarts)],
        figures_of(summary, restarts, lasted) | {"attainment": whole.attainment, "error_rate": whole.error_rate},
        findings=test.findings_of(taken),
        course=course_of(m, test.goal, taken.step.number, lasted, marks),
        notes=notes_of(summary, settled >= lasted),
        advice=f"hold the next build against it: llmgen compare {taken.directory} RUN",
    )


def answered(summary: Summary, restarts: list[Restart]) -> list[Answer]:
    client = [one for one in summary.stability if one.metric not in SERVER]
    server = [one for one in summary.stability if one.metric in SERVER]
    found = [Answer(question="client", text=trends_told(client))] if client else []
    if server:
        found.append(Answer(question="server", text=trends_told(server)))
    found.append(Answer(question="restarts", text="; ".join(restart_told(one) for one in restarts) or "none"))
    return found


def trends_told(trends: list[Trend]) -> str:
    """Those that drift; else the largest change of each kind that does not."""
    drifting = [one for one in trends if one.drifting]
    if drifting:
        return "; ".join(f"{NAMES.get(one.metric, one.metric)} {change_told(one)}" for one in drifting)
    changes = ", ".join(
        f"{NAMES.get(one.metric, one.metric)} {change_told(one, p=False)}" for one in trends if one.metric in SHOWN
    )
    return f"nothing drifts over {trends[0].windows} windows of {trends[0].width_s:g} s" + (
        f" ({changes})" if changes else ""
    )


SHOWN: Final = frozenset({"ttft_from_due_p50_ms", "ttft_from_due_p99_ms", "error_rate", *SERVER})


def restarts_of(outages: list[Outage], summary: Summary) -> list[Restart]:
    """Outages as the client saw them, and new processes that telemetry tells of, each once."""
    found = [
        Restart(at_s=one.from_s, until_s=one.until_s, seen=f"{sum(one.failures.values()):,} requests failed")
        for one in outages
    ]
    for mark in summary.server.marks if summary.server is not None else ():
        if mark.kind != "restart":
            continue
        for number, one in enumerate(found):
            until = one.until_s if one.until_s is not None else float("inf")
            if one.at_s - SAME_S <= mark.t_s <= until + SAME_S:
                if "process" not in one.seen:
                    found[number] = msgspec.structs.replace(one, seen=f"{one.seen}, a new process")
                break
        else:
            found.append(Restart(at_s=mark.t_s, until_s=None, seen="a new process; no request was cut"))
    return sorted(found, key=lambda one: one.at_s)


def restart_told(one: Restart) -> str:
    lasted = "" if one.until_s is None else f", back after {one.until_s - one.at_s:.1f} s"
    return f"at {clock(one.at_s)}{lasted} ({one.seen})"


def figures_of(summary: Summary, restarts: list[Restart], lasted: float) -> dict[str, float | None]:
    found: dict[str, float | None] = {f"drift.{one.metric}": one.change for one in summary.stability}
    away = [one.until_s - one.at_s for one in restarts if one.until_s is not None]
    return {**found, "restarts": float(len(restarts)), "away_s": float(sum(away)), "lasted_s": lasted}


def notes_of(summary: Summary, unsettled: bool) -> list[str]:
    notes = ["it ended within the part that is not to be judged (--settle)"] if unsettled else []
    if not summary.stability:
        notes.append(f"drift cannot be judged: it needs {MIN_WINDOWS} windows at a constant load")
    if summary.server is None:
        notes.append("the server's memory and caches were not seen: name its metrics page (--telemetry URL)")
    return notes


def lasted_s(m: Measurements) -> float:
    """The window's end; of a run that was broken off, the last that is known of a request."""
    if m.run.state == "complete":
        return (m.span[1] - m.start_ns) / 1e9
    last = max(int(m.requests[name].max(initial=m.start_ns)) for name in ("dispatch", "last_token", "end"))
    return max((last - m.start_ns) / 1e9, 1e-3)


def ended_told(m: Measurements, info: dict[str, Any], lasted: float, length: float) -> str:
    """How long it was, and up to when it is known."""
    count = f"{int((m.requests['dispatch'] >= 0).sum()):,} requests"
    if m.run.state == "complete":
        return f"{clock(lasted)}, {count}"
    last = info.get("start_realtime_ns") or 0
    at = ""
    if last > 0:
        when = datetime.datetime.fromtimestamp(last / 1e9 + lasted, datetime.UTC)
        at = f", at {when:%Y-%m-%d %H:%M:%S} UTC"
    return f"known up to {clock(lasted)} of {clock(length)}{at}; {count}"


def parts(lasted: float) -> list[tuple[float, float]]:
    return [(lasted * n / PARTS, lasted * (n + 1) / PARTS) for n in range(PARTS)]


def clock(seconds: float) -> str:
    """1:02:03, or 2:03; with tenths below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
