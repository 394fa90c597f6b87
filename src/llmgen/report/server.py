"""The server's own figures in the reports: short lines, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console

from llmgen.metrics.figures import Summary
from llmgen.metrics.server_figures import Against, Gauge, Server, ServerMark
from llmgen.report.canvas import heading, item, line, number, share
from llmgen.report.escaping import plain
from llmgen.telemetry.families import SERIES

MOST_MARKS: Final = 8
MOST_GPUS: Final = 16
GB: Final = 1e9
UNLIKE: Final = 0.05  # counts of client and server that differ by more are said


def server(console: Console, summary: Summary) -> None:
    """Nothing without telemetry."""
    told = summary.server
    if told is None:
        return
    heading(console, "SERVER", sources(told))
    for label, text in lines(told):
        line(console, label, text)
    for mark in told.marks[:MOST_MARKS]:
        item(console, "!", mark_text(mark), "yellow")
    if len(told.marks) > MOST_MARKS:
        item(console, "·", f"{len(told.marks) - MOST_MARKS} more in summary.json", "dim")


def sources(told: Server) -> str:
    """Who was read, and how often that failed."""
    names = dict.fromkeys(source.family or plain(source.url, 60) for source in told.sources)
    scrapes, failed = (sum(getattr(source, name) for source in told.sources) for name in ("scrapes", "failed"))
    return f"{', '.join(names)}: {scrapes:,} readings" + (f", {failed:,} failed" if failed else "")


def lines(told: Server) -> Iterator[tuple[str, str]]:
    """(label, text) of everything that the server said; what it did not say is left out."""
    yield from _together(_requests(told), "requests")
    yield from _together(_cache(told), "KV cache")
    yield from _together(_batches(told), "batches")
    for name, against in told.against.items():
        yield SERIES[name].title, _against(against)
    queued = told.histograms.get("queue_time")
    if queued is not None:
        yield "queue time", f"{number(queued.mean)} ms in the server, mean of {queued.n:,.0f} requests"
    yield from _together(_gpus(told), "GPUs" if len(told.gpus) > 1 else "GPU")
    yield from _together(_machine(told), "process")
    if told.load_time_s is not None:
        yield "model load", f"{number(told.load_time_s)} s"
    moved = [
        f"{SERIES[one.series].title} (rank correlation {one.rho:+.2f}{_lag(one.lag_s)})" for one in told.correlation[:4]
    ]
    yield from _together(moved, "TTFT follows")


def _together(parts: list[str], label: str) -> Iterator[tuple[str, str]]:
    if parts:
        yield label, ", ".join(parts)


def _requests(told: Server) -> list[str]:
    parts = [
        f"{_gauge(told.gauges[name])} {SERIES[name].title}" for name in ("running", "waiting") if name in told.gauges
    ]
    for name, words in (("failed", "failed"), ("aborted", "aborted")):
        counted = told.counters.get(name)
        if counted is not None and counted.increase >= 0.5:
            parts.append(f"{counted.increase:,.0f} {words}")
    return parts


def _gauge(gauge: Gauge) -> str:
    return f"{number(gauge.mean)} (at most {number(gauge.max)})"


def _cache(told: Server) -> list[str]:
    parts = []
    usage = told.gauges.get("kv_usage")
    if usage is not None:
        parts.append(f"{share(round(usage.mean, 3))} in use (at most {share(round(usage.max, 3))})")
    preempted = told.counters.get("preemptions")
    if preempted is not None:
        parts.append(f"{preempted.increase:,.0f} preemptions")
    if told.prefix_hit_rate is not None:
        parts.append(f"{share(round(told.prefix_hit_rate, 3))} of prompt tokens cached")
    return parts


def _batches(told: Server) -> list[str]:
    parts = []
    tokens = told.histograms.get("batch_tokens")
    if tokens is not None:
        text = f"{number(tokens.mean)} tokens an iteration"
        if tokens.p50 is not None and tokens.p95 is not None:
            text += f" (median {_bucket(tokens.p50)}, p95 {_bucket(tokens.p95)})"
        parts.append(f"{text}, {tokens.n:,.0f} iterations")
    if "batch_size" in told.gauges and "running" not in told.gauges:
        parts.append(f"{_gauge(told.gauges['batch_size'])} requests")
    if told.spec_acceptance is not None:
        parts.append(f"{share(round(told.spec_acceptance, 3))} of draft tokens accepted")
    return parts


def _bucket(edges: tuple[float, float | None]) -> str:
    low, high = edges
    return f"above {low:,.0f}" if high is None else f"{low:,.0f}–{high:,.0f}"


def _against(a: Against) -> str:
    text = f"{number(a.server_mean_ms)} ms by the server, {number(a.client_mean_ms)} by us: "
    text += f"{number(a.added_ms)} ms between (means)"
    if abs(a.server_n - a.client_n) > UNLIKE * a.client_n:
        text += f"; not the same requests: {a.server_n:,.0f} there, {a.client_n:,} here"
    return text


def _gpus(told: Server) -> list[str]:
    g, parts = told.gauges, []
    if "gpu_util" in g:
        parts.append(f"busy {share(round(g['gpu_util'].mean, 3))}")
    if "gpu_memory_used" in g:
        free = g.get("gpu_memory_free")
        of = "" if free is None else f" of {number((g['gpu_memory_used'].mean + free.mean) / GB)}"
        parts.append(f"{number(g['gpu_memory_used'].max / GB)}{of} GB")
    if "gpu_temperature" in g:
        parts.append(f"up to {g['gpu_temperature'].max:.0f} °C")
    if "gpu_power" in g:
        parts.append(f"{number(g['gpu_power'].mean)} W")
    if told.joules_per_output_token is not None:
        parts.append(f"{number(told.joules_per_output_token)} J an output token")
    return parts


def _machine(told: Server) -> list[str]:
    parts = []
    if told.process_cpus is not None:
        parts.append(f"{number(told.process_cpus)} cores")
    if "rss" in told.gauges:
        parts.append(f"{number(told.gauges['rss'].max / GB)} GB resident")
    if told.node_cpu_share is not None:
        parts.append(f"node's CPUs {share(round(told.node_cpu_share, 3))} busy")
    return parts


def _lag(lag_s: float) -> str:
    return "" if not lag_s else f", {abs(lag_s):g} s {'before it' if lag_s > 0 else 'after it'}"


def mark_text(mark: ServerMark) -> str:
    """A restart, an outage of the page, an XID, in words."""
    when = f"{number(mark.t_s)} s"
    if mark.kind == "unreachable":
        when += f" to {'the end' if mark.until_s is None else f'{number(mark.until_s)} s'}"
    return f"{when}: {plain(mark.what, 160)}"


GPU_CELLS: Final[tuple[tuple[str, Callable[[Gauge], str]], ...]] = (
    ("gpu_util", lambda g: share(round(g.mean, 3))),
    ("gpu_memory_used", lambda g: f"{number(g.max / GB)} GB"),
    ("gpu_temperature", lambda g: f"{g.max:.0f} °C"),
    ("gpu_power", lambda g: f"{number(g.mean)} W"),
    ("gpu_clock", lambda g: f"{number(g.mean / 1e6)} MHz"),
)


def gpu_rows(told: Server) -> list[tuple[str, ...]]:
    """A row a GPU: busy, memory, temperature, power, SM clock; empty for a single one."""
    if len(told.gpus) < 2:
        return []
    rows = []
    for name, gauges in list(told.gpus.items())[:MOST_GPUS]:
        cells = []
        for key, shown in GPU_CELLS:
            gauge = gauges.get(key)
            cells.append("–" if gauge is None else shown(gauge))
        rows.append((plain(name, 40), *cells))
    return rows
