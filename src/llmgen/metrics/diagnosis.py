"""Why a run went as it did: rules that look for known patterns, each with the numbers that made it speak.

A rule compares the part of the run with the least load to the part with the most (by offered rate where that varied,
else the beginning to the end), or looks for the mark of one known defect. It suspects; its advice says how to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from llmgen.metrics.breakdown import input_tokens
from llmgen.metrics.figures import Finding, Summary, Windows
from llmgen.metrics.measurements import Measurements

MIN_WINDOWS: Final = 6  # two in each third
VARIED: Final = 1.2  # offered rates of the thirds that differ by this are a ramp, not noise
RISING: Final = 1.5  # of a latency: more than a Poisson load's windows differ by
STEADY: Final = 1.15
MIN_SHARE: Final = 0.2  # of gaps or requests that show a pattern: less may be chance or one odd client
SAMPLE: Final = 100_000  # gaps or requests looked at

# Linux sends a delayed ACK after 40 ms; arrivals are a little later. The bands beside it must be emptier.
ACK_STEP_MS: Final = (38.0, 46.0)
BESIDE_MS: Final = ((28.0, 36.0), (48.0, 56.0))
# A lost SYN is sent again after 1 s, then after 2 s more, then 4 s more (RFC 6298, 2.1 and 5.5).
SYN_STEPS_S: Final = ((0.95, 1.35), (2.9, 3.5), (6.8, 7.6))
COLD: Final = 3.0  # first requests this many times slower than the median
COLD_REQUESTS: Final = 5
SPIKE_WINDOWS: Final = 0.2  # errors in at most this share of the windows are spikes
MIN_EVENTS: Final = 5  # fewer token events may well come in one read


@dataclass(frozen=True, slots=True)
class Thirds:
    """Medians over the least and the most loaded third of the windows: (low, high) of each figure; by: how ordered."""

    by: str
    offered: tuple[float, float]
    in_flight: tuple[float, float]
    tokens: tuple[float, float]
    ttft: tuple[float, float]
    itl: tuple[float, float]

    def ratio(self, name: str) -> float:
        low, high = getattr(self, name)
        return high / low if low > 0 else float("nan")

    def told(self, name: str, label: str, unit: str) -> str:
        low, high = getattr(self, name)
        return f"{label} {low:.4g} → {high:.4g} {unit}"


def diagnose(m: Measurements, summary: Summary) -> tuple[Finding, ...]:
    """Every rule's finding, in the order of RULES."""
    thirds = thirds_of(summary.windows)
    found = [rule(thirds) for rule in LOAD_RULES] if thirds is not None else []
    found += [check(m, summary) for check in RULES]
    return tuple(finding for finding in found if finding is not None)


def thirds_of(windows: Windows | None) -> Thirds | None:
    """None with too few windows that have a TTFT."""
    if windows is None:
        return None
    ttft = np.array(windows.ttft_from_due_p50_ms, np.float64)
    itl = np.array(windows.itl_p50_ms, np.float64)
    there = ~np.isnan(ttft) & np.array(windows.measured, bool)
    if np.count_nonzero(there) < MIN_WINDOWS:
        return None
    offered = np.array(windows.scheduled, np.float64)[there] / windows.width_s
    order = np.argsort(offered, kind="stable")
    third = len(order) // 3
    by = "offered rate"
    if np.median(offered[order[-third:]]) < VARIED * np.median(offered[order[:third]]) or _is_flat(offered, third):
        order, by = np.arange(len(order)), "time"
    columns = {
        "offered": offered,
        "in_flight": np.array(windows.in_flight, np.float64)[there],
        "tokens": np.array(windows.output_tokens_per_s, np.float64)[there],
        "ttft": ttft[there],
        "itl": itl[there],
    }
    pairs = {name: (_median(v[order[:third]]), _median(v[order[-third:]])) for name, v in columns.items()}
    return Thirds(by=by, **pairs)


def _is_flat(offered: np.ndarray, third: int) -> bool:
    """Rates whose spread is that of counting requests, and that go nowhere over the run."""
    first, last = np.median(offered[:third]), np.median(offered[-third:])
    steps = np.abs(np.diff(offered)).mean()
    return bool(abs(last - first) < steps and offered.std() < 1.5 * steps)


def _median(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


# -- rules about load ---------------------------------------------------------------------------------------------


def saturation(t: Thirds) -> Finding | None:
    """Flat throughput with rising latency → saturation."""
    loaded = t.ratio("offered") > VARIED or t.ratio("in_flight") > RISING
    if not (loaded and t.ratio("tokens") < STEADY and t.ratio("ttft") > RISING):
        return None
    return Finding(
        rule="saturation",
        suspicion="the server is saturated: more load brings no more tokens, only waiting",
        evidence=(_ordered(t), t.told("tokens", "output", "tokens/s"), t.told("ttft", "TTFT from due", "ms")),
        advice="find the largest rate that keeps the objectives (llmgen search); above it add replicas or shed load",
    )


def queueing(t: Thirds) -> Finding | None:
    """TTFT rising before TPOT → queueing or admission."""
    if not (t.ratio("ttft") > RISING and t.ratio("itl") < STEADY):
        return None
    return Finding(
        rule="queueing",
        suspicion="requests wait to be admitted; those that run are served as fast as before",
        evidence=(_ordered(t), t.told("ttft", "TTFT from due", "ms"), t.told("itl", "ITL", "ms")),
        advice="look at the server's waiting requests and its limit of running ones (max sequences, batched tokens), "
        "and at our queue and connect times",
    )


def decode_capacity(t: Thirds) -> Finding | None:
    """TPOT rising, tokens/s falling → decode capacity or preemption."""
    if not (t.ratio("itl") > 1.25 and t.ratio("tokens") < 0.97):
        return None
    return Finding(
        rule="decode-capacity",
        suspicion="decoding slows down while fewer tokens come out: preemption, swapping or a full KV cache",
        evidence=(_ordered(t), t.told("itl", "ITL", "ms"), t.told("tokens", "output", "tokens/s")),
        advice="look at KV cache use and preemptions; try fewer running sequences, shorter contexts or more memory",
    )


def batching_delay(t: Thirds) -> Finding | None:
    """Batch size and TTFT and tokens/s rising together → batching delay."""
    together = t.ratio("in_flight") > 1.3 and t.ratio("tokens") > 1.3 and t.ratio("ttft") > 1.3
    if not together or t.ratio("ttft") > 4:
        return None
    return Finding(
        rule="batching-delay",
        suspicion="larger batches carry more tokens and make each request wait: the batching trade-off",
        evidence=(
            _ordered(t),
            t.told("in_flight", "in flight", "requests"),
            t.told("tokens", "output", "tokens/s"),
            t.told("ttft", "TTFT from due", "ms"),
        ),
        advice="if TTFT matters more than throughput: smaller batches, chunked prefill, or a shorter batching delay",
    )


def _ordered(t: Thirds) -> str:
    return f"least to most loaded third, by {t.by}: {t.told('offered', 'offered', 'requests/s')}"


LOAD_RULES: Final[tuple[Callable[[Thirds], Finding | None], ...]] = (
    saturation,
    queueing,
    decode_capacity,
    batching_delay,
)


# -- rules about known defects ------------------------------------------------------------------------------------


def error_spikes(m: Measurements, summary: Summary) -> Finding | None:
    """Errors only in spikes → autoscaling or connection handling."""
    windows = summary.windows
    if windows is None:
        return None
    scheduled, failed = np.array(windows.scheduled), np.array(windows.failed)
    used, total = np.count_nonzero(scheduled), int(failed.sum())
    if total < 5 or used < 10:
        return None
    worst = np.argsort(failed)[::-1][: max(1, int(SPIKE_WINDOWS * used))]
    inside = int(failed[worst].sum())
    hit = worst[failed[worst] > 0]
    by_chance = used * (1 - math.exp(-total / used))  # windows that errors of random requests would be in
    if inside < 0.9 * total or len(hit) > 0.5 * by_chance:
        return None
    when = ", ".join(f"{number * windows.width_s:.4g} s" for number in np.sort(hit)[:5])
    return Finding(
        rule="error-spikes",
        suspicion="errors come in spikes: instances that start or stop, or connections that are cut",
        evidence=(
            f"{inside} of {total} failed requests are due in {len(hit)} of {used} windows of {windows.width_s:g} s "
            f"(at {when}{' …' if len(hit) > 5 else ''})",
        ),
        advice="hold these times against the deployment's scaling events, restarts and load balancer's idle timeouts",
    )


def cold_start(m: Measurements, summary: Summary) -> Finding | None:
    """Slow first requests after a process start → cold start."""
    r = m.requests
    values = m.value("ttft") if not np.isnan(m.value("ttft")).all() else m.value("e2e")
    rows = np.flatnonzero(~np.isnan(values))
    due = r["due"][rows]
    if (due[1:] < due[:-1]).any():
        rows = rows[np.argsort(due, kind="stable")]
    if len(rows) < 4 * COLD_REQUESTS:
        return None
    others = rows[COLD_REQUESTS :: max(1, len(rows) // SAMPLE)]
    first, rest = float(np.median(values[rows[:COLD_REQUESTS]])), float(np.median(values[others]))
    if first < COLD * rest:
        return None
    slow = np.flatnonzero(values[rows] < COLD * rest)
    return Finding(
        rule="cold-start",
        suspicion="the first requests met a cold server: compilation, cache allocation, or a scaled-down instance",
        evidence=(
            f"median of the first {COLD_REQUESTS} requests {first / 1e6:.4g} ms, of the others {rest / 1e6:.4g} ms",
            f"{int(slow[0]) if len(slow) else len(rows)} requests in a row from the start are that slow",
        ),
        advice="measure it by itself, in a run of its own on a fresh server, and cut it from this one with --warmup",
    )


def linear_in_input(m: Measurements, summary: Summary) -> Finding | None:
    """Server CPU full, GPU idle, TTFT linear in input → tokeniser (the server's CPU and GPU are for you to look at)."""
    tokens, values = input_tokens(m), m.value("ttft")
    there = np.flatnonzero(m.inside & (tokens > 0) & ~np.isnan(values))
    if len(there) < 50:
        return None
    there = there[:: max(1, len(there) // SAMPLE)]
    x, y = tokens[there].astype(np.float64), values[there] / 1e6
    low, high = np.quantile(x, [0.05, 0.95])
    if high < 4 * low:
        return None
    correlation = float(np.corrcoef(x, y)[0, 1]) if y.std() else 0.0
    slope = correlation * float(y.std() / x.std())
    at_median = slope * float(np.median(x)) / float(np.median(y))
    if correlation**2 < 0.8 or at_median < 0.5:
        return None
    return Finding(
        rule="ttft-linear-in-input",
        suspicion="the first token's time is proportional to the prompt: prefill, or a tokeniser on a full CPU",
        evidence=(
            f"input tokens explain {correlation**2:.0%} of the variance of TTFT (R²), {at_median:.0%} of its median",
            f"{slope * 1000:.4g} ms for 1,000 input tokens, {1000 / slope:,.0f} tokens/s",
        ),
        advice="if the server's CPU is full and its GPU idle meanwhile, it is the tokeniser: more API servers; "
        "else prefill: prefix caching, chunked prefill, more compute",
    )


def delayed_ack(m: Measurements, summary: Summary) -> Finding | None:
    """Chunk gaps in ~40 ms steps → Nagle's algorithm and delayed ACKs."""
    if m.events is None or not len(m.events.gaps.ns):
        return None
    gaps = m.events.gaps
    step = max(1, len(gaps.ns) // SAMPLE)
    ms = gaps.ns[::step] / 1e6
    peak = _between(ms, ACK_STEP_MS)
    beside = max(_between(ms, band) for band in BESIDE_MS)
    held = float(np.mean(gaps.tokens[::step] > 1)) if not gaps.one_token_each else 0.0
    quick = float(np.mean(ms < 10))
    # steady 25 tokens/s look alike, but nothing is held back there: gaps are equal, a token each
    if peak < MIN_SHARE or peak < 4 * beside or max(held, quick) < MIN_SHARE:
        return None
    return Finding(
        rule="delayed-ack",
        suspicion="tokens are held back in ~40 ms steps: the sender waits for delayed ACKs (no TCP_NODELAY)",
        evidence=(
            f"{peak:.0%} of chunk gaps lie within {ACK_STEP_MS[0]:g}–{ACK_STEP_MS[1]:g} ms, at most {beside:.0%} in a "
            "band as wide beside it",
            f"{held:.0%} of gaps carry several tokens, {quick:.0%} are below 10 ms",
        ),
        advice="set TCP_NODELAY on the server or on the proxy before it",
    )


def _between(values: np.ndarray, band: tuple[float, float]) -> float:
    return float(np.mean((values >= band[0]) & (values < band[1])))


def buffering_proxy(m: Measurements, summary: Summary) -> Finding | None:
    """All events of an answer in one read at low drain lag → a buffering proxy."""
    r = m.requests
    streams = m.inside & m.ok & (r["token_events"] >= MIN_EVENTS)
    count = int(np.count_nonzero(streams))
    if count < 5:
        return None
    whole = int(np.count_nonzero(streams & (r["reads"] <= 1)))
    drain = summary.client.drain_lag_us
    if whole < 0.5 * count or (drain is not None and drain.p99 > 2000):
        return None
    lag = "" if drain is None else f"; we read {drain.p99:.4g} µs (p99) after the kernel had them"
    return Finding(
        rule="buffering-proxy",
        suspicion="answers arrive whole: something between us and the engine collects the stream",
        evidence=(f"{whole} of {count} streams brought all their events in one read{lag}",),
        advice="switch buffering off (nginx: proxy_buffering off, or X-Accel-Buffering: no; gzip, gateways), and "
        "compare with the engine's own port",
    )


def accept_queue(m: Measurements, summary: Summary) -> Finding | None:
    """Connect times in 1 s and 3 s steps → accept queue overflow."""
    connect = m.value("connect") / 1e9
    connect = connect[~np.isnan(connect)]
    stepped = sum(int(np.count_nonzero((connect >= low) & (connect < high))) for low, high in SYN_STEPS_S)
    longer = int(np.count_nonzero(connect >= SYN_STEPS_S[0][0]))
    if stepped < 3 or stepped < 0.8 * longer:
        return None
    share = stepped / len(connect)
    return Finding(
        rule="accept-queue",
        suspicion="SYNs were dropped and sent again: the server's accept queue overflows, or a firewall drops them",
        evidence=(f"{stepped} of {len(connect)} connects ({share:.1%}) took 1, 3 or 7 s, as retransmitted SYNs do",),
        advice="raise the server's backlog (listen, net.core.somaxconn), keep connections open, or use --preconnect",
    )


RULES: Final[tuple[Callable[[Measurements, Summary], Finding | None], ...]] = (
    error_spikes,
    cold_start,
    linear_in_input,
    delayed_ack,
    buffering_proxy,
    accept_queue,
)
