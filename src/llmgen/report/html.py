"""report.html: the verdict and the objectives first, then the course of the run, its distributions, and why.

Everything a server said is escaped; the pieces of a page are page.py's, the pictures plots.py's and relations.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from llmgen.columns import Status
from llmgen.metrics import definitions
from llmgen.metrics.checklist import checklist_of
from llmgen.metrics.figures import Binned, Group, Summary
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.stability import NAMES
from llmgen.metrics.statistics import Dist
from llmgen.records import Run, read_errors
from llmgen.report import conclusions, page, relations, server
from llmgen.report.canvas import number, percent, share
from llmgen.report.escaping import plain
from llmgen.report.page import folded, note, picture, section, table, text
from llmgen.report.plots import figures
from llmgen.report.text import LATENCIES, MEANS, arrivals_text, measured_text, outcome

SLOWEST: Final = 20
SAMPLES_PER_STATUS: Final = 3


def write_html(run: Run, summary: Summary, out: Path | None = None) -> Path:
    """Writes the page, atomically; returns its path, report.html in the run directory unless told."""
    out = run.path / "report.html" if out is None else out
    page.write(out, render(run, summary))
    return out


def render(run: Run, summary: Summary) -> str:
    """The whole page."""
    m = Measurements(run)
    pictures = figures(m) | relations.figures(m, summary)
    errors = read_errors(run.path)

    def drawn(title: str, *places: str, after: str = "") -> str:
        return section(title, "".join(picture(place) for place in places if place in pictures) + after)

    body = [
        _headline(summary),
        _figures_of_merit(summary),
        _slo(summary),
        _diagnosis(summary),
        _latency_table("Latency", summary),
        drawn("Over time", "over-time"),
        drawn("Distributions", "ttft", "e2e", "itl"),
        drawn("Latency against load", "load", after=note("Each point is a time window, at its requests in flight.")),
        drawn("Latency against tokens", "ttft-input", "tpot-context", "e2e-output", after=_by_tokens(summary)),
        _server(summary),
        _groups("Classes", summary.classes),
        _groups("Targets", summary.targets),
        _groups("Turns", summary.turns),
        _sessions(summary),
        _errors(summary, errors),
        _patience(summary),
        _stability(summary),
        _cost(summary),
        _profiles(summary),
        drawn("Requests one by one", "requests", after=note(relations.TIMELINE_NOTE)),
        _slowest(m),
        _client(summary),
        _checklist(run, summary),
        _about(run, summary),
    ]
    title = f"{summary.name or summary.run_id or 'run'} · llmgen"
    return page.document(title, "\n".join(part for part in body if part), pictures)


# -- pieces of the page -------------------------------------------------------------------------------------------


def _headline(summary: Summary) -> str:
    verdict = summary.verdict
    told = [f"<li>{text(reason)}</li>" for reason in verdict.reasons]
    told += [f'<li class="note">{text(note)}</li>' for note in verdict.notes]
    parts = [summary.name, summary.run_id, summary.started and summary.started[:19].replace("T", " ") + " UTC"]
    parts += [f"{key}={value}" for key, value in summary.tags.items()]
    return (
        f"<header><h1>{text(summary.name or 'Run')}</h1>"
        f'<p class="what">{" · ".join(text(part) for part in parts[1:] if part)}</p>'
        f'<p class="verdict {verdict.status}"><strong>{verdict.status}</strong> {text(MEANS[verdict.status])}</p>'
        f"{'<ul>' + ''.join(told) + '</ul>' if told else ''}</header>"
    )


def _figures_of_merit(summary: Summary) -> str:
    """The handful of numbers that people come for."""
    load, t, latency = summary.load, summary.throughput, summary.latency
    cards: list[tuple[str, str, str]] = []
    if load.offered_rate is not None and load.achieved_rate is not None:
        cards.append(("offered", f"{number(load.offered_rate)}/s", f"{number(load.achieved_rate)}/s sent"))
    cards.append(("requests", f"{summary.requests.scheduled:,}", outcome(summary.requests)))
    first = latency.ttft_from_due_ms
    if first is not None:
        cards.append(
            ("TTFT from due", f"{number(first.p50)} ms", f"p95 {number(first.p95)}, p99 {number(first.p99)} ms")
        )
    for name, dist in (("ITL", latency.itl_ms), ("E2E", latency.e2e_ms)):
        if dist is not None:
            cards.append((name, f"{number(dist.p50)} ms", f"p95 {number(dist.p95)}, p99 {number(dist.p99)} ms"))
    if t.output_tokens_per_s is not None:
        requests = "" if t.requests_per_s is None else f"{number(t.requests_per_s)} requests/s"
        cards.append(("output tokens", f"{number(t.output_tokens_per_s)}/s", requests))
    if t.goodput is not None:
        good = "" if t.goodput_requests_per_s is None else f"{number(t.goodput_requests_per_s)} good requests/s"
        cards.append(("goodput", share(t.goodput), good))
    inner = "".join(
        f"<div><h3>{text(name)}</h3><b>{text(value)}</b><span>{text(note)}</span></div>" for name, value, note in cards
    )
    return f'<section class="cards">{inner}</section>'


def _slo(summary: Summary) -> str:
    results = [*summary.slo, *(result for group in summary.classes.values() for result in group.slo)]
    words = {True: "met", False: "missed", None: "see goodput"}
    rows = [
        (
            result.expression
            if result.klass is None or result.expression.startswith("class:")
            else f"class:{result.klass} {result.expression}",
            measured_text(result),
            words[result.met],
        )
        for result in results
    ]
    marks = ["" if result.met is None else "good" if result.met else "bad" for result in results]
    return section("Service level objectives", table(("objective", "measured", ""), rows, marks)) if rows else ""


def _latency_table(title: str, summary: Summary) -> str:
    rows: list[tuple[str, ...]] = []
    for field, name in (*LATENCIES, ("stall_ms", "stall"), ("normalised_ms", "normalised")):
        dist: Dist | None = getattr(summary.latency, field)
        if dist is None:
            continue
        points = [
            number(getattr(dist, p)) + ("*" if p in dist.too_few else "") for p in ("p50", "p90", "p95", "p99", "p999")
        ]
        interval = "" if not dist.ci95 else "–".join(number(edge) for edge in dist.ci95["p95"])
        rows.append((name, number(dist.mean), *points, number(dist.max), interval, f"{dist.n:,}", f"{dist.excluded:,}"))
    titles = ("ms", "mean", "p50", "p90", "p95", "p99", "p99.9", "max", "p95, 95 % interval", "n", "without")
    note = '<p class="note">Requests of the window that have the stamps. * too few values for this percentile.</p>'
    return section(title, table(titles, rows) + note) if rows else ""


def _groups(title: str, groups: Mapping[str, Group]) -> str:
    if len(groups) < 2:
        return ""
    rows = []
    for name, group in groups.items():
        latency = group.latency
        cells = [
            f"{number(d.p50)} / {number(d.p95)}" if d else "–"
            for d in (latency.ttft_ms, latency.tpot_ms, latency.e2e_ms)
        ]
        rate = group.throughput.output_tokens_per_s
        share = percent(group.requests.succeeded, group.requests.scheduled)
        rows.append(
            (plain(name, 80), f"{group.requests.scheduled:,}", share, *cells, "–" if rate is None else number(rate))
        )
    titles = ("", "requests", "ok", "TTFT p50 / p95", "TPOT p50 / p95", "E2E p50 / p95", "tokens/s")
    return section(title, table(titles, rows))


def _server(summary: Summary) -> str:
    """What the server said of itself; nothing without telemetry."""
    told = summary.server
    if told is None:
        return ""
    inner = f'<p class="note">{text(server.sources(told))}</p>' + table(("", ""), server.lines(told))
    gpus = server.gpu_rows(told)
    if gpus:
        inner += table(("GPU", "busy", "memory", "temperature", "power", "SM clock"), gpus)
    marks = "".join(f"<li>{text(server.mark_text(mark))}</li>" for mark in told.marks[:100])
    return section("The server", inner + (f"<ul>{marks}</ul>" if marks else ""))


def _errors(summary: Summary, errors: Sequence[Mapping[str, Any]]) -> str:
    if not summary.requests.failed:
        return ""
    parts = []
    for status, count in sorted(summary.requests.failed.items(), key=lambda item: -item[1]):
        samples = [error for error in errors if str(error.get("status")) == status][:SAMPLES_PER_STATUS]
        said = "".join(
            f"<pre>{text(error.get('http_status') or '')} {text(error.get('text') or '', 2048)}</pre>"
            for error in samples
        )
        share = percent(count, summary.requests.scheduled)
        parts.append(
            f"<details><summary>{text(status)}: {count:,} ({share})</summary>{said or '<p>no text</p>'}</details>"
        )
    return section("Errors", "".join(parts))


def _slowest(m: Measurements) -> str:
    """The requests whose first token, or end if nothing streamed, came longest after they were due."""
    r = m.requests
    metric = m.value("ttft_from_due")
    if np.isnan(metric).all():
        metric = m.value("e2e_from_due")
    there = np.flatnonzero(~np.isnan(metric))
    order = there[np.argsort(metric[there])[::-1][:SLOWEST]]
    phases = (
        definitions.schedule_lag(r),
        m.value("queue"),
        m.value("connect"),
        m.value("tls"),
        m.value("ttft"),
        m.value("stall"),
        m.value("e2e"),
    )
    statuses = {int(status): status.name for status in Status}
    rows = []
    for row in order.tolist():
        klass = int(r["klass"][row])
        name = m.class_names[klass] if klass < len(m.class_names) else str(klass)
        status = int(r["status"][row])
        rows.append(
            (
                str(int(r["index"][row])),
                plain(name, 40),
                statuses.get(status, str(status)),
                f"{(int(r['due'][row]) - m.start_ns) / 1e9:.3f}",
                *("" if np.isnan(phase[row]) else number(phase[row] / 1e6) for phase in phases),
                str(int(r["output_tokens"][row])) if r["output_tokens"][row] >= 0 else "",
            )
        )
    titles = ("request", "class", "status", "due s", "lag", "queue", "connect", "TLS", "TTFT", "stall", "E2E", "tokens")
    return section("Slowest requests", table(titles, rows) + '<p class="note">Phases in ms.</p>') if rows else ""


def _client(summary: Summary) -> str:
    client, load = summary.client, summary.load
    rows: list[tuple[str, str]] = []
    spread = (
        ("schedule lag", load.schedule_lag_ms, "ms"),
        ("our lag until the send", load.own_lag_ms, "ms"),
        ("send lag with queue and connect", load.send_lag_ms, "ms"),
        ("drain lag, kernel to us", client.drain_lag_us, "µs"),
        ("uncertainty of coalesced tokens", client.stamp_uncertainty_us, "µs"),
        ("TTFT by user-space stamps", client.ttft_user_ms, "ms"),
        ("chunk gap by user-space stamps", client.chunk_gap_user_ms, "ms"),
    )
    for name, dist, unit in spread:
        if dist is not None:
            rows.append((name, f"p50 {number(dist.p50)}, p99 {number(dist.p99)}, max {number(dist.max)} {unit}"))
    if load.arrivals is not None:
        rows.append(("arrivals", arrivals_text(load.arrivals)))
    single = (
        ("workers", client.workers, "{}"),
        ("busiest worker", client.cpu_share_max and share(client.cpu_share_max), "{} of a core"),
        ("processor time an event", client.cpu_us_per_event, "{:.2f} µs"),
        ("largest worker", client.peak_rss_mb, "{:.0f} MB"),
        ("stamps", client.stamps, "{}"),
        ("events that shared a read", client.coalesced_share and share(client.coalesced_share), "{}"),
        ("steal", client.steal_pct, "{:.1f} %"),
        ("clock steps", client.clock_steps, "{}"),
    )
    rows += [(name, form.format(value)) for name, value, form in single if value is not None]
    return section("The client's own health", table(("", ""), rows))


def _about(run: Run, summary: Summary) -> str:
    """What was asked and where it ran, as run.json tells it."""
    shown = {key: run.info.get(key) for key in ("config", "environment", "versions", "server", "seed", "note")}
    told = msgspec.json.format(msgspec.json.encode({k: v for k, v in shown.items() if v}), indent=2).decode()
    lines = "\n".join(text(line) for line in told.splitlines())
    return section("Configuration and environment", f"<details><summary>run.json</summary><pre>{lines}</pre></details>")


# -- conclusions ------------------------------------------------------------------------------------------------------


def _diagnosis(summary: Summary) -> str:
    parts = []
    for finding in summary.diagnosis:
        evidence = "".join(f"<li>{text(line)}</li>" for line in finding.evidence)
        parts.append(
            f'<div class="finding"><h3>{text(finding.rule)}</h3><p>{text(finding.suspicion)}</p><ul>{evidence}</ul>'
            f"<p><b>Try:</b> {text(finding.advice)}</p></div>"
        )
    return section("Diagnosis", "".join(parts))


def _by_tokens(summary: Summary) -> str:
    """The tables behind the pictures."""
    tokens = summary.by_tokens
    groups: tuple[tuple[str, str, tuple[Binned, ...]], ...] = (
        ("TTFT by input tokens", "input tokens", tokens.ttft_by_input),
        ("TPOT by context length", "input and output tokens", tokens.tpot_by_context),
        ("E2E by output tokens", "output tokens", tokens.e2e_by_output),
    )
    tables = []
    for title, what, bins in groups:
        rows = [
            (
                f"{b.low:,}–{b.high - 1:,}" if b.high > b.low + 1 else f"{b.low:,}",
                f"{b.n:,}",
                "–" if b.p50 is None else number(b.p50),
                "–" if b.p95 is None else number(b.p95),
            )
            for b in bins
        ]
        if rows:
            tables.append(f"<h3>{text(title)}</h3>" + table((what, "n", "p50 ms", "p95 ms"), rows))
    return folded("as tables", "".join(tables)) if tables else ""


def _sessions(summary: Summary) -> str:
    s = summary.sessions
    if s is None:
        return ""
    rows = [("sessions begun in the window", f"{s.sessions:,}"), ("without a failed turn", f"{s.succeeded:,}")]
    if s.goodput is not None:
        between = "" if s.goodput_ci95 is None else f" ({'–'.join(share(edge)[:-2] for edge in s.goodput_ci95)})"
        rows.append(("goodput: every turn kept its limits", f"{share(s.goodput)}{between}"))
    if s.held_back:
        rows.append(("turns that waited for the answer before", f"{s.held_back:,} of {s.later_turns:,} later ones"))
    for name, dist, unit, scale in (
        ("duration, first due to last end", s.duration_ms, "s", 1e-3),
        ("turns", s.turns_per_session, "", 1),
    ):
        if dist is not None:
            points = ", ".join(f"{p} {number(getattr(dist, p) * scale)}" for p in ("p50", "p95", "max"))
            rows.append((name, f"{points} {unit}".strip()))
    return section("Sessions", table(("", ""), rows))


def _patience(summary: Summary) -> str:
    """Whose timeouts ended requests, and how many people would have left."""
    t = summary.timeouts
    rows: list[tuple[str, str, str]] = []
    if t is not None:
        rows += [(f"our {name} timeout", f"{count:,}", "") for name, count in t.client.items()]
        if t.client_after_ms is not None and rows:
            rows.append(("ours, from due to the end", "", _points(t.client_after_ms)))
        if t.server_timeout:
            after = t.server_timeout_after_ms
            told = "" if after is None else _points(after)
            rows.append(("the server's timeout (408, 504, event)", f"{t.server_timeout:,}", told))
        rows += [(f"server failure: {name}", f"{count:,}", "") for name, count in t.server_failures.items()]
    parts = table(("ended by", "requests", "ms"), rows)
    waits = [
        (f"{a.threshold_s:g} s", "–" if a.share is None else share(a.share), f"{a.passed:,} of {a.n:,}")
        for a in summary.abandonment
    ]
    if waits:
        parts += table(("TTFT from due above", "share", "requests"), waits)
    return section("Timeouts and patience", parts)


def _points(dist: Dist) -> str:
    return ", ".join(f"{p} {number(getattr(dist, p))}" for p in ("p50", "p95", "max"))


def _stability(summary: Summary) -> str:
    if not summary.stability:
        return ""
    rows = []
    for trend in summary.stability:
        absolute = trend.metric.endswith(("rate", "share"))
        change = f"{100 * trend.change:+.2f} {'points' if absolute else '%'}"
        name = NAMES.get(trend.metric, trend.metric)
        p = "<0.0001" if trend.p_value < 1e-4 else f"{trend.p_value:.2g}"
        rows.append((name, change, f"{trend.tau:+.2f}", p, "drifts" if trend.drifting else "steady"))
    marks = ["bad" if trend.drifting else "" for trend in summary.stability]
    titles = ("", "change over the run", "Kendall's τ", "p", "")
    width = summary.stability[0].width_s
    told = f"Theil–Sen slope and Mann–Kendall, corrected for autocorrelation, over windows of {width:g} s."
    return section("Stability", table(titles, rows, marks) + note(told))


def _cost(summary: Summary) -> str:
    c = summary.cost
    if c is None:
        return ""
    rows = (
        ("1M output tokens (GPU hours)", c.per_million_output_tokens),
        ("1,000 requests (GPU hours)", c.per_thousand_requests),
        ("1M output tokens of good requests", c.per_million_good_output_tokens),
        ("1,000 good requests", c.per_thousand_good_requests),
        ("the window's tokens (API prices)", c.tokens_total),
        ("1,000 requests (API prices)", c.tokens_per_thousand_requests),
        ("1,000 good requests (API prices)", c.tokens_per_thousand_good_requests),
    )
    return section("Cost", table(("", "at your prices"), [(n, number(v)) for n, v in rows if v is not None]))


def _profiles(summary: Summary) -> str:
    found = summary.profiles
    if not found:
        return ""
    rows = []
    for label, fields in conclusions.PROFILE_ROWS:
        dists = [next((one.metrics[f] for f in fields if f in one.metrics), None) for one in found.values()]
        if any(dists):
            cells = ["–" if d is None else " / ".join(number(v) for v in (d.p50, d.p95, d.p99)) for d in dists]
            rows.append((label, *cells))
    told = sorted({f"{name}: {line}" for name, one in found.items() for line in one.notes})
    return section(
        "As others tell it",
        table(("p50 / p95 / p99, ms", *found), rows) + "".join(note(line) for line in told),
    )


def _checklist(run: Run, summary: Summary) -> str:
    words = {"done": "done", "partly": "partly", "open": "open"}
    checks = checklist_of([(summary, run.info)])
    rows = [(check.item, check.note, words[check.state]) for check in checks]
    marks = [{"done": "good", "open": "bad"}.get(check.state, "") for check in checks]
    done = sum(check.state == "done" for check in checks)
    return section(
        "Checklist", folded(f"{done} of {len(checks)} items of a thorough test", table(("", "", ""), rows, marks))
    )
