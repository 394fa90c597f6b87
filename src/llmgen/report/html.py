"""report.html: one file that opens offline, on a phone and in the dark; everything a server said is escaped.

The page is assembled from small pieces of HTML text; pictures are JSON that a few lines of script hand to plotly.js,
which comes from the plotly package and lies in the page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from plotly.offline import get_plotlyjs

from llmgen.columns import Status
from llmgen.metrics import definitions
from llmgen.metrics.figures import Group, Summary
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.statistics import Dist
from llmgen.records import Run, read_errors
from llmgen.report import server
from llmgen.report.canvas import number, percent, share
from llmgen.report.escaping import plain
from llmgen.report.plots import Figure, figures
from llmgen.report.text import LATENCIES, MEANS, measured_text, outcome

SLOWEST: Final = 20
SAMPLES_PER_STATUS: Final = 3
HEADINGS: Final = {"over-time": "Over time", "ttft": "Distributions"}  # of the pictures that begin a section


def write_html(run: Run, summary: Summary, out: Path | None = None) -> Path:
    """Writes the page, atomically; returns its path, report.html in the run directory unless told."""
    out = run.path / "report.html" if out is None else out
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(render(run, summary), encoding="utf-8")
    temporary.rename(out)
    return out


def render(run: Run, summary: Summary) -> str:
    """The whole page."""
    m = Measurements(run)
    pictures = figures(m)
    errors = read_errors(run.path)
    body = "\n".join(
        [
            _headline(summary),
            _figures_of_merit(summary),
            _slo(summary),
            _latency_table("Latency", summary),
            *(_picture(place) for place in pictures),
            _server(summary),
            _groups("Classes", summary.classes),
            _groups("Targets", summary.targets),
            _errors(summary, errors),
            _slowest(m),
            _client(summary),
            _about(run, summary),
        ]
    )
    title = _text(f"{summary.name or summary.run_id or 'run'} · llmgen")
    return _asset("page.html").format(
        title=title,
        style=_asset("page.css"),
        body=body,
        plotly=get_plotlyjs(),
        figures=_json(pictures),
        script=_asset("page.js"),
    )


def _asset(name: str) -> str:
    return resources.files("llmgen.report").joinpath(name).read_text(encoding="utf-8")


def _json(value: dict[str, Figure]) -> str:
    """JSON that cannot end its script element, whatever is in it."""
    text = msgspec.json.encode(value).decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _text(value: object, limit: int | None = None) -> str:
    return html.escape(plain(str(value), limit))


# -- pieces of the page -------------------------------------------------------------------------------------------


def _headline(summary: Summary) -> str:
    verdict = summary.verdict
    told = [f"<li>{_text(reason)}</li>" for reason in verdict.reasons]
    told += [f'<li class="note">{_text(note)}</li>' for note in verdict.notes]
    parts = [summary.name, summary.run_id, summary.started and summary.started[:19].replace("T", " ") + " UTC"]
    parts += [f"{key}={value}" for key, value in summary.tags.items()]
    return (
        f"<header><h1>{_text(summary.name or 'Run')}</h1>"
        f'<p class="what">{" · ".join(_text(part) for part in parts[1:] if part)}</p>'
        f'<p class="verdict {verdict.status}"><strong>{verdict.status}</strong> {_text(MEANS[verdict.status])}</p>'
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
        f"<div><h3>{_text(name)}</h3><b>{_text(value)}</b><span>{_text(note)}</span></div>"
        for name, value, note in cards
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
    return _section("Service level objectives", _table(("objective", "measured", ""), rows, marks)) if rows else ""


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
    return _section(title, _table(titles, rows) + note) if rows else ""


def _picture(place: str) -> str:
    heading = HEADINGS.get(place, "")
    return f'{f"<h2>{heading}</h2>" if heading else ""}<div class="picture" id="{place}"></div>'


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
    return _section(title, _table(titles, rows))


def _server(summary: Summary) -> str:
    """What the server said of itself; nothing without telemetry."""
    told = summary.server
    if told is None:
        return ""
    inner = f'<p class="note">{_text(server.sources(told))}</p>' + _table(("", ""), server.lines(told))
    gpus = server.gpu_rows(told)
    if gpus:
        inner += _table(("GPU", "busy", "memory", "temperature", "power", "SM clock"), gpus)
    marks = "".join(f"<li>{_text(server.mark_text(mark))}</li>" for mark in told.marks[:100])
    return _section("The server", inner + (f"<ul>{marks}</ul>" if marks else ""))


def _errors(summary: Summary, errors: Sequence[Mapping[str, Any]]) -> str:
    if not summary.requests.failed:
        return ""
    parts = []
    for status, count in sorted(summary.requests.failed.items(), key=lambda item: -item[1]):
        samples = [error for error in errors if str(error.get("status")) == status][:SAMPLES_PER_STATUS]
        said = "".join(
            f"<pre>{_text(error.get('http_status') or '')} {_text(error.get('text') or '', 2048)}</pre>"
            for error in samples
        )
        share = percent(count, summary.requests.scheduled)
        parts.append(
            f"<details><summary>{_text(status)}: {count:,} ({share})</summary>{said or '<p>no text</p>'}</details>"
        )
    return _section("Errors", "".join(parts))


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
    return _section("Slowest requests", _table(titles, rows) + '<p class="note">Phases in ms.</p>') if rows else ""


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
    if load.arrivals is not None and load.arrivals.ks_distance is not None:
        rows.append(("arrivals against the plan", f"KS distance {load.arrivals.ks_distance:.3f}"))
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
    return _section("The client's own health", _table(("", ""), rows))


def _about(run: Run, summary: Summary) -> str:
    """What was asked and where it ran, as run.json tells it."""
    shown = {key: run.info.get(key) for key in ("config", "environment", "versions", "server", "seed", "note")}
    text = msgspec.json.format(msgspec.json.encode({k: v for k, v in shown.items() if v}), indent=2).decode()
    lines = "\n".join(_text(line) for line in text.splitlines())
    return _section(
        "Configuration and environment", f"<details><summary>run.json</summary><pre>{lines}</pre></details>"
    )


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{inner}</section>"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], marks: Sequence[str] | None = None) -> str:
    """A table that scrolls sideways by itself; marks: a class for each row."""
    head = "".join(f"<th>{_text(title)}</th>" for title in titles)
    body = []
    for index, row in enumerate(rows):
        mark = f' class="{marks[index]}"' if marks and marks[index] else ""
        body.append(f"<tr{mark}>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
