"""The terminal report: the verdict first, then what was offered, what came back and how well we ourselves did.

Every number is one of summary.json. Lines fit `width` columns, with or without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmgen.metrics.figures import Arrivals, Counts, Group, SloResult, Summary
from llmgen.metrics.statistics import Dist
from llmgen.report import conclusions
from llmgen.report.canvas import LABEL_WIDTH, canvas, columns, heading, item, line, number, percent, percentile, share
from llmgen.report.escaping import plain
from llmgen.report.server import server

STYLES: Final = {"valid": "bold green", "suspect": "bold yellow", "invalid": "bold red", "incomplete": "bold red"}
MEANS: Final = {
    "valid": "the client delivered the load and measured it truly",
    "suspect": "read with care: the client may have influenced the result",
    "invalid": "do not use: the client could not deliver or measure this load",
    "incomplete": "the run did not come to its end",
}
# (field of summary.latency, name); the rest is in summary.json and report.html
LATENCIES: Final = (
    ("ttft_from_due_ms", "TTFT from due"),
    ("ttft_ms", "TTFT"),
    ("ttfo_ms", "TTFO"),
    ("tpot_ms", "TPOT"),
    ("itl_ms", "ITL"),
    ("chunk_gap_ms", "chunk gap"),
    ("e2e_from_due_ms", "E2E from due"),
    ("e2e_ms", "E2E"),
    ("queue_ms", "queue"),
    ("connect_ms", "connect"),
    ("tls_ms", "TLS"),
)
COLUMNS: Final = (("p50", "p50"), ("p90", "p90"), ("p95", "p95"), ("p99", "p99"), ("max", "max"))
MAX_GROUPS: Final = 8  # rows of a table of classes or targets; the rest is in summary.json


def render(
    summary: Summary,
    info: Mapping[str, Any] | None = None,
    *,
    width: int = 80,
    color: bool = False,
    errors: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The report as text that ends in a newline.

    info: run.json, for what was asked. errors: lines of errors.jsonl, of which the first of each status is shown.
    """
    console, finished = canvas(width, color)
    _verdict(console, summary)
    _load(console, summary, info or {})
    _latencies(console, summary)
    conclusions.profiles(console, summary)
    _throughput(console, summary)
    _groups(console, "CLASSES", summary.classes)
    _groups(console, "TARGETS", summary.targets)
    _groups(console, "TURNS", summary.turns)
    conclusions.sessions(console, summary)
    _errors(console, summary, errors)
    conclusions.patience(console, summary)
    _slo(console, summary)
    server(console, summary)
    conclusions.cost(console, summary)
    conclusions.stability(console, summary)
    conclusions.diagnosis(console, summary)
    _client(console, summary)
    return finished()


# -- sections -----------------------------------------------------------------------------------------------------


def _verdict(console: Console, summary: Summary) -> None:
    verdict = summary.verdict
    console.print(
        Text.assemble(
            (f" {verdict.status.upper()} ", f"{STYLES[verdict.status]} reverse"), f"  {MEANS[verdict.status]}"
        )
    )
    for reason in verdict.reasons:
        item(console, "•", plain(reason), STYLES[verdict.status])
    for note in verdict.notes:
        item(console, "·", plain(note), "dim")
    parts = [
        plain(str(part))
        for part in (summary.name, summary.run_id, summary.started and summary.started[:19] + "Z")
        if part
    ]
    parts += [f"{plain(key)}={plain(value)}" for key, value in summary.tags.items()]
    if parts:
        console.print(Padding(Text(" · ".join(parts), style="dim"), (0, 0, 0, 1)))


def _load(console: Console, summary: Summary, info: Mapping[str, Any]) -> None:
    load, requests, window = summary.load, summary.requests, summary.window
    heading(console, "LOAD")
    urls = [plain(str(target.get("url"))) for target in info.get("targets") or ()]
    if urls:
        more = f" and {len(urls) - 1} more" if len(urls) > 1 else ""
        line(console, "target", urls[0] + more)
        protocol = protocol_text(info)
        if protocol:
            line(console, "protocol", protocol)
    arrival = f" {plain(load.arrival)}" if load.arrival else ""
    offered = f"{requests.scheduled:,} requests,{arrival}"
    if load.offered_rate is not None:
        offered += f"{' ·' if arrival else ''} {number(load.offered_rate)}/s over the schedule"
    line(console, "offered", offered.rstrip(","))
    sent = f"{requests.sent:,} sent"
    if requests.scheduled:
        sent += f" ({percent(requests.sent, requests.scheduled)})"
    if load.achieved_rate is not None:
        sent += f", {number(load.achieved_rate)}/s"
    line(console, "delivered", f"{sent}; at most {load.peak_in_flight:,} in flight")
    line(console, "ended", outcome(requests))
    line(console, "window", _window_text(summary, window.requests))


def protocol_text(info: Mapping[str, Any]) -> str:
    """HTTP version, and what TLS took: `HTTP/2, TLSv1.3, 8 handshakes (6 resumed)`; "" for plain HTTP/1.1."""
    servers = [server for server in info.get("server") or () if isinstance(server, Mapping)]
    parts = []
    if any(server.get("protocol") == 2 for server in servers):
        parts.append("HTTP/2")
    versions = sorted({plain(str(server["tls"])) for server in servers if server.get("tls")})
    if versions:
        workers = [worker for worker in info.get("workers_detail") or () if isinstance(worker, Mapping)]
        done, resumed = (sum(int(w.get(name) or 0) for w in workers) for name in ("tls_handshakes", "tls_resumed"))
        parts = parts or ["HTTP/1.1"]
        parts.append(f"{', '.join(versions)}, {done:,} handshakes ({resumed:,} resumed)")
    return ", ".join(parts)


def _window_text(summary: Summary, counts: Counts) -> str:
    window = summary.window
    text = f"{number(window.start_s)}–{number(window.end_s)} s"
    if counts.scheduled == summary.requests.scheduled:
        return f"{text}, all requests"
    return f"{text}: {counts.scheduled:,} requests, {outcome(counts)}"


def outcome(counts: Counts) -> str:
    parts = [f"{counts.succeeded:,} ok"]
    if counts.scheduled:
        parts[0] += f" ({percent(counts.succeeded, counts.scheduled)})"
    named = (
        ("failed", counts.failures),
        ("cancelled", counts.cancelled),
        ("never sent", counts.never_sent),
        ("lost", counts.lost),
    )
    return ", ".join([*parts, *(f"{count:,} {name}" for name, count in named if count)])


def _latencies(console: Console, summary: Summary) -> None:
    rows = [(name, getattr(summary.latency, field)) for field, name in LATENCIES]
    rows = [(name, dist) for name, dist in rows if dist is not None and not _trivial(name, dist, summary)]
    heading(console, "LATENCY", "ms, requests of the window" if rows else "nothing to measure: no answer came")
    if not rows:
        return
    table = columns(*(title for title, _ in COLUMNS), "n", "none")
    for name, dist in rows:
        headline = name == "TTFT from due"
        cells = [percentile(dist, field) for _, field in COLUMNS]
        table.add_row(
            Text(name, "bold" if headline else ""), *cells, f"{dist.n:,}", f"{dist.excluded:,}" if dist.excluded else ""
        )
    console.print(table)
    if any(field in dist.too_few for _, dist in rows for field, _ in COLUMNS):
        item(console, "*", "too few values for this percentile", "dim")
    head = summary.latency.ttft_from_due_ms or summary.latency.e2e_from_due_ms
    if head is not None and head.ci95:
        name = "TTFT" if summary.latency.ttft_from_due_ms else "E2E"
        spans = [f"{key} {number(low)}–{number(high)}" for key, (low, high) in head.ci95.items()]
        item(console, "·", f"95 % intervals of {name} from due: {', '.join(spans)}", "dim")


def _trivial(name: str, dist: Dist, summary: Summary) -> bool:
    """Rows that say nothing: a queue that nobody waited in; TTFO without reasoning before the text."""
    return (name == "queue" and dist.max < 0.01) or (name == "TTFO" and dist == summary.latency.ttft_ms)


def _throughput(console: Console, summary: Summary) -> None:
    t, tokens = summary.throughput, summary.tokens
    heading(console, "THROUGHPUT", "per second of the window")
    if t.requests_per_s is not None:
        text = f"{number(t.requests_per_s)} succeeded"
        if t.goodput is not None and t.goodput_requests_per_s is not None:
            text += f", {number(t.goodput_requests_per_s)} good (goodput {share(t.goodput)})"
        line(console, "requests", text)
    tokenless = tokens.output is None and not t.output_tokens_per_s  # embeddings
    parts = [f"{number(t.output_tokens_per_s)} output" if t.output_tokens_per_s is not None and not tokenless else ""]
    parts.append(f"{number(t.input_tokens_per_s)} input" if t.input_tokens_per_s is not None else "")
    parts.append(f"{number(t.failed_output_tokens_per_s)} of failed requests" if t.failed_output_tokens_per_s else "")
    line(console, "tokens", ", ".join(part for part in parts if part))
    if t.events_per_s is not None and not tokenless:
        line(console, "events", number(t.events_per_s))
    if tokens.output is not None:
        source = ", ".join(f"{plain(name)} {count:,}" for name, count in tokens.output_source.items())
        text = f"{tokens.output:,} output"
        text += f", {share(tokens.output_ratio)} of those asked for" if tokens.output_ratio is not None else ""
        text += f"; {tokens.input:,} input" if tokens.input is not None else ""
        line(console, "in all", f"{text} (counted by {source})")
    elif tokens.input is not None:
        line(console, "in all", f"{tokens.input:,} input")
    if tokens.reasoning:
        line(console, "reasoning", f"{tokens.reasoning:,} of the output")
    if tokens.cached is not None:
        line(console, "cached", f"{tokens.cached:,} of the input")


def _groups(console: Console, title: str, groups: Mapping[str, Group]) -> None:
    if len(groups) < 2:
        return
    heading(console, title, "TTFT and TPOT in ms")
    table = columns("requests", "ok", "TTFT p50", "p95", "TPOT p50", "tok/s")
    for name, group in list(groups.items())[:MAX_GROUPS]:
        ttft, tpot = group.latency.ttft_ms, group.latency.tpot_ms
        table.add_row(
            Text(plain(name, 24), overflow="ellipsis"),
            f"{group.requests.scheduled:,}",
            percent(group.requests.succeeded, group.requests.scheduled),
            *(("–", "–") if ttft is None else (number(ttft.p50), number(ttft.p95))),
            "–" if tpot is None else number(tpot.p50),
            "–" if group.throughput.output_tokens_per_s is None else number(group.throughput.output_tokens_per_s),
        )
    console.print(table)
    if len(groups) > MAX_GROUPS:
        item(console, "·", f"{len(groups) - MAX_GROUPS} more in summary.json", "dim")


def _errors(console: Console, summary: Summary, errors: Sequence[Mapping[str, Any]]) -> None:
    if not summary.requests.failed:
        return
    total = summary.requests.scheduled
    heading(console, "ERRORS", f"{percent(summary.requests.failures, total)} of {total:,} requests")
    for status, count in sorted(summary.requests.failed.items(), key=lambda item: -item[1]):
        sample = next((error for error in errors if str(error.get("status")) == status), None)
        said = ""
        if sample is not None:
            code = sample.get("http_status")
            said = f"{code} " if code else ""
            said += plain(str(sample.get("text") or ""), 160)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=LABEL_WIDTH + 5)
        grid.add_column(width=8, justify="right")
        grid.add_column(ratio=1)
        grid.add_row(Text(f" {plain(status)}", "red"), f"{count:,}", Text(said, "dim"))
        console.print(grid)


def _slo(console: Console, summary: Summary) -> None:
    results = [*summary.slo, *(result for group in summary.classes.values() for result in group.slo)]
    if not results:
        return
    missed = sum(result.met is False for result in results)
    heading(console, "SLO", f"{missed} missed" if missed else "all met")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=2)
    table.add_column(ratio=1)
    table.add_column(justify="right")
    for result in results:
        mark, style = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("·", "dim")}[result.met]
        named = result.klass is not None and not result.expression.startswith("class:")
        expression = f"class:{result.klass} {result.expression}" if named else result.expression
        table.add_row(Text(f" {mark}", style), Text(plain(expression)), Text(measured_text(result), style))
    console.print(table)


def measured_text(result: SloResult) -> str:
    """What a run did about an objective, in words; of limits and shares with their 95 % interval."""
    if result.measured is None:
        return f"∞ ({result.missing:,} failed or unfinished)" if result.missing else "not measured"
    if result.unit == "ms":
        return f"{number(result.measured)} ms"
    if result.unit == "per_s":
        return f"{number(result.measured)}/s"
    between = "" if result.ci95 is None else f" ({'–'.join(share(edge)[:-2] for edge in result.ci95)})"
    return f"{share(result.measured)}{between}"


def arrivals_text(a: Arrivals) -> str:
    """Shape of the arrivals as sent, beside the plan's."""
    shape = (
        ("CV of gaps", a.cv, a.planned_cv),
        ("dispersion at 1 s", a.dispersion_1s, a.planned_dispersion_1s),
        ("at 10 s", a.dispersion_10s, a.planned_dispersion_10s),
    )
    told = [f"{name} {it:.2f} (plan {plan:.2f})" for name, it, plan in shape if it is not None and plan is not None]
    if a.ks_distance is not None:
        told.append(f"gaps {a.ks_distance:.3f} from the plan's (KS distance)")
    return ", ".join(told)


def _client(console: Console, summary: Summary) -> None:
    client, load = summary.client, summary.load
    heading(console, "CLIENT", "our own health")
    for name, dist in (("schedule lag", load.schedule_lag_ms), ("send lag", load.send_lag_ms)):
        if dist is not None:
            line(console, name, f"p50 {number(dist.p50)}, p99 {number(dist.p99)}, max {number(dist.max)} ms")
    if load.arrivals is not None:
        line(console, "arrivals", arrivals_text(load.arrivals))
    if client.drain_lag_us is not None:
        lag = client.drain_lag_us
        line(console, "drain lag", f"p50 {number(lag.p50)}, p99 {number(lag.p99)} µs from kernel to us")
    if client.stamps is not None:
        shared = "" if client.coalesced_share is None else f"; {share(client.coalesced_share)} of events shared a read"
        line(console, "stamps", f"{client.stamps}{shared}")
    if client.stamps != "user":
        told = (("TTFT", client.ttft_user_ms), ("chunk gap", client.chunk_gap_user_ms))
        user = [f"{name} p50 {number(d.p50)}, p99 {number(d.p99)}" for name, d in told if d is not None]
        if user:
            line(console, "user stamps", f"{'; '.join(user)} ms")
    parts = [f"{client.workers} worker{'' if client.workers == 1 else 's'}" if client.workers is not None else ""]
    parts.append(f"{share(client.cpu_share_max)} of a core" if client.cpu_share_max is not None else "")
    parts.append(f"{number(client.cpu_us_per_event)} µs an event" if client.cpu_us_per_event is not None else "")
    parts.append(f"{number(client.peak_rss_mb)} MB" if client.peak_rss_mb is not None else "")
    parts.append(f"steal {client.steal_pct:.1f} %" if client.steal_pct is not None else "")
    line(console, "workers", ", ".join(part for part in parts if part))
