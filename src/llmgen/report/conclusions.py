"""The terminal report's shorter sections: other tools' figures, patience, sessions, cost, drift, diagnosis.

Each prints nothing where there is nothing to say.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console

from llmgen.metrics.figures import Summary, Trend
from llmgen.metrics.stability import NAMES, SERVER_NAMES, change_told
from llmgen.metrics.statistics import Dist
from llmgen.report.canvas import columns, heading, item, line, number, share
from llmgen.report.escaping import plain

# The rows of the tables that show profiles: a name for what each tool calls its own way.
PROFILE_ROWS: Final = (
    ("TTFT", ("ttft_ms",)),
    ("TPOT", ("tpot_ms",)),
    ("ITL", ("itl_ms",)),
    ("chunk gap", ("inter_chunk_latency_ms",)),
    ("NTPOT", ("ntpot_ms",)),
    ("E2E", ("e2el_ms", "request_latency_ms", "e2e_ms", "latency_ms")),
)


def profiles(console: Console, summary: Summary) -> None:
    """What the other tools would have printed: percentiles of one, p50 and p99 of several side by side."""
    found = summary.profiles
    if not found:
        return
    if len(found) == 1:
        ((name, one),) = found.items()
        heading(console, f"AS {name.upper()}", f"ms, by the definitions of {name}; {one.requests:,} requests")
        table = columns("mean", "p50", "p90", "p95", "p99", "max")
        for label, fields in PROFILE_ROWS:
            for field in fields:
                if (dist := one.metrics.get(field)) is not None:
                    points = (dist.mean, dist.p50, dist.p90, dist.p95, dist.p99, dist.max)
                    table.add_row(label, *(number(point) for point in points))
    else:
        heading(console, "AS OTHERS TELL IT", "p50 / p99 in ms, each by its own definitions")
        table = columns(*found)
        for label, fields in PROFILE_ROWS:
            cells = [_pair(next((one.metrics[f] for f in fields if f in one.metrics), None)) for one in found.values()]
            if any(cell != "–" for cell in cells):
                table.add_row(label, *cells)
    console.print(table)
    for note in sorted({f"{name}: {note}" for name, one in found.items() for note in one.notes}):
        item(console, "·", note, "dim")


def _pair(dist: Dist | None) -> str:
    return "–" if dist is None else f"{number(dist.p50)}/{number(dist.p99)}"


def sessions(console: Console, summary: Summary) -> None:
    s = summary.sessions
    if s is None:
        return
    heading(console, "SESSIONS", f"{s.sessions:,} begun in the window")
    text = f"{s.succeeded:,} without a failed turn"
    text += "" if s.goodput is None else f"; goodput {share(s.goodput)}"
    line(console, "ended", text)
    if s.held_back:
        line(console, "held back", f"{s.held_back:,} of {s.later_turns:,} later turns waited for the answer before")
    if s.duration_ms is not None:
        line(console, "duration", f"p50 {number(s.duration_ms.p50 / 1e3)}, p95 {number(s.duration_ms.p95 / 1e3)} s")


def patience(console: Console, summary: Summary) -> None:
    """Whose timeouts ended requests, and how many people would have left."""
    t = summary.timeouts
    if t is not None and (t.client or t.server_timeout):
        ours = ", ".join(f"{name} {count:,}" for name, count in t.client.items()) or "none"
        line(console, "timeouts", f"ours: {ours}; the server's: {t.server_timeout:,}")
    passed = [a for a in summary.abandonment if a.passed and a.share is not None]
    if passed:
        told = ", ".join(f"{share(a.share or 0)} over {a.threshold_s:g} s" for a in passed)
        line(console, "patience", f"TTFT from due: {told}")


def cost(console: Console, summary: Summary) -> None:
    c = summary.cost
    if c is None:
        return
    heading(console, "COST", "at your prices")
    rows = (
        ("GPU hours", c.per_million_output_tokens, "for 1M output tokens"),
        ("", c.per_thousand_requests, "for 1,000 requests"),
        ("", c.per_million_good_output_tokens, "for 1M output tokens of good requests"),
        ("", c.per_thousand_good_requests, "for 1,000 good requests"),
        ("tokens", c.tokens_total, "for the window's tokens"),
        ("", c.tokens_per_thousand_requests, "for 1,000 requests"),
        ("", c.tokens_per_thousand_good_requests, "for 1,000 good requests"),
    )
    for label, value, what in rows:
        if value is not None:
            line(console, label, f"{number(value)} {what}")


def stability(console: Console, summary: Summary) -> None:
    """Drift where there is any; one line that there is none where enough windows say so."""
    trends = summary.stability
    if not trends:
        return
    drifting = [trend for trend in trends if trend.drifting]
    windows = max(trend.windows for trend in trends)
    heading(console, "STABILITY", f"over {windows} windows of {trends[0].width_s:g} s")
    for trend in drifting:
        item(console, "•", trend_text(trend), "yellow")
    if not drifting:
        server = any(trend.metric in SERVER_NAMES for trend in trends)
        item(
            console,
            "·",
            f"no drift of latencies, tokens/s{', errors and the server' if server else ' and errors'}",
            "dim",
        )


def trend_text(trend: Trend) -> str:
    """A drift in words."""
    return f"{NAMES.get(trend.metric, trend.metric)} drifts: {change_told(trend)}"


def diagnosis(console: Console, summary: Summary) -> None:
    if not summary.diagnosis:
        return
    heading(console, "DIAGNOSIS", "patterns that this run shows")
    for finding in summary.diagnosis:
        item(console, "•", f"{finding.rule}: {plain(finding.suspicion)}", "yellow")
        for evidence in finding.evidence:
            item(console, "", plain(evidence), "dim")
        item(console, "→", f"try: {plain(finding.advice)}", "")
