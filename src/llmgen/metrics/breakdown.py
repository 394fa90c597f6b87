"""Cuts of a run: by time window, by token counts, by whose timeout ended a request, by how long people would wait."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from llmgen.columns import Status
from llmgen.metrics import definitions, series
from llmgen.metrics.figures import Abandonment, Binned, ByTokens, Timeouts, Windows
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.statistics import binned_quantiles, distribution

MOST_WINDOWS: Final = 60  # enough for the course of a run, few enough to be read as numbers
THRESHOLDS_S: Final = (1.0, 3.0, 10.0)  # limits of flow, attention and waiting as usability texts have them (Nielsen)
TOKEN_SHARES: Final = (0.5, 0.95)
WIDE: Final = 8  # token counts that spread over less than three octaves are cut at their own quantiles
NARROW_BINS: Final = 8

CLIENT_TIMEOUTS: Final = {
    Status.connect_timeout: "connect",
    Status.first_token_timeout: "first_token",
    Status.idle_timeout: "idle",
    Status.total_timeout: "total",
    Status.abandoned: "abandoned",
}
SERVER_FAILURES: Final = (
    Status.rate_limited,
    Status.http_5xx,
    Status.stream_error,
    Status.stream_cut,
    Status.empty,
    Status.reset,
    Status.eof,
    Status.connect_refused,
    Status.unprocessed,
)


# -- time ---------------------------------------------------------------------------------------------------------


def windows_of(m: Measurements, bins: series.Bins | None = None) -> Windows | None:
    """Time windows: counts and percentiles by due time, in equal windows from the start of the run."""
    if not m.count:
        return None
    bins = bins or series.bins_of(m, MOST_WINDOWS)
    r = m.requests
    at = bins.of(r["due"])
    there = at >= 0
    failed = definitions.failed(r)
    starts = m.start_ns + (np.arange(bins.count) * bins.width_s * 1e9).astype(np.int64)
    measured = (starts >= m.window[0]) & (bins.ends_ns <= m.window[1])
    counts = {
        "scheduled": np.bincount(at[there], minlength=bins.count),
        "succeeded": np.bincount(at[there & m.ok], minlength=bins.count),
        "failed": np.bincount(at[there & failed], minlength=bins.count),
        "in_flight": series.in_flight(m, bins),
    }
    found: dict[str, Any] = {name: tuple(values.tolist()) for name, values in counts.items()}
    for metric, name in (("ttft_from_due", "ttft_from_due"), ("itl", "itl"), ("e2e", "e2e")):
        rows = series.percentiles_over_time(m, bins, metric)
        for share, row in zip(("p50", "p95", "p99"), rows, strict=True):
            found[f"{name}_{share}_ms"] = tuple(_number(value) for value in row.tolist())
    tokens = tuple(round(value, 3) for value in series.tokens_over_time(m, bins).tolist())
    return Windows(width_s=bins.width_s, measured=tuple(measured.tolist()), output_tokens_per_s=tokens, **found)


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), 6)


# -- tokens -------------------------------------------------------------------------------------------------------


def by_tokens(m: Measurements) -> ByTokens:
    """TTFT by input tokens, TPOT by context length (input and output), E2E by output tokens: p50 and p95 with n."""
    given = input_tokens(m)
    output = m.requests["output_tokens"].astype(np.int64)
    context = np.where((given > 0) & (output > 0), given + output, -1)
    return ByTokens(
        ttft_by_input=_binned(m, given, "ttft"),
        tpot_by_context=_binned(m, context, "tpot"),
        e2e_by_output=_binned(m, output, "e2e"),
    )


def input_tokens(m: Measurements) -> np.ndarray:
    """Input tokens of each request as the server told them, else as planned; -1 or 0: unknown."""
    told = m.requests["input_tokens"]
    return np.where(told >= 0, told, m.requests["planned_input"]).astype(np.int64)


def _binned(m: Measurements, tokens: np.ndarray, metric: str) -> tuple[Binned, ...]:
    values = m.value(metric)
    there = m.inside & (tokens > 0) & ~np.isnan(values)
    if not there.any():
        return ()
    tokens, values = tokens[there], values[there]
    edges = token_edges(tokens)
    at = np.searchsorted(edges, tokens, side="right") - 1
    found = binned_quantiles(at, values, len(edges) - 1, TOKEN_SHARES) / 1e6
    n = np.bincount(at, minlength=len(edges) - 1)
    return tuple(
        Binned(
            low=int(edges[i]), high=int(edges[i + 1]), n=int(n[i]), p50=_number(found[0, i]), p95=_number(found[1, i])
        )
        for i in np.flatnonzero(n).tolist()
    )


def token_edges(tokens: np.ndarray) -> np.ndarray:
    """Edges of bins low <= tokens < high, int64: powers of two, or quantiles where they spread over less than WIDE."""
    low, high = int(tokens.min()), int(tokens.max())
    if high >= WIDE * low:
        first, last = low.bit_length() - 1, high.bit_length()
        return 1 << np.arange(first, last + 1, dtype=np.int64)
    inner = np.quantile(tokens, np.linspace(0, 1, NARROW_BINS + 1)[1:-1], method="nearest").astype(np.int64)
    return np.unique(np.concatenate([[low], inner, [high + 1]]))


# -- patience -----------------------------------------------------------------------------------------------------


def timeouts_of(m: Measurements) -> Timeouts:
    """Timeout distribution: ours by phase, against the server's own (408, 504, a timeout event) and its failures."""
    status = m.requests["status"]
    counts = np.bincount(status, minlength=256)
    waited = np.where(m.requests["end"] >= 0, m.requests["end"] - m.requests["due"], -1)

    def after(statuses: tuple[Status, ...]) -> np.ndarray:
        found: np.ndarray = waited[np.isin(status, [int(s) for s in statuses]) & (waited >= 0)]
        return found

    return Timeouts(
        client={name: int(counts[code]) for code, name in CLIENT_TIMEOUTS.items() if counts[code]},
        client_after_ms=distribution(after(tuple(CLIENT_TIMEOUTS))),
        server_timeout=int(counts[Status.server_timeout]),
        server_timeout_after_ms=distribution(after((Status.server_timeout,))),
        server_failures={code.name: int(counts[code]) for code in SERVER_FAILURES if counts[code]},
    )


def abandonment_of(m: Measurements, thresholds_s: tuple[float, ...] = THRESHOLDS_S) -> tuple[Abandonment, ...]:
    """Abandonment: the share of the window's requests whose TTFT from due passed 1, 3 and 10 s.

    One without a first token counts as passed if it waited that long, and is left out if it ended earlier. Empty where
    nothing streamed.
    """
    r = m.requests
    first = m.value("ttft_from_due")
    waited = np.where(r["end"] >= 0, (r["end"] - r["due"]).astype(np.float64), np.nan)
    none = np.isnan(first) & ~m.ok  # a whole answer has no first token, and nobody waited for one
    found = []
    for threshold in thresholds_s:
        with np.errstate(invalid="ignore"):
            passed = m.inside & ((first > threshold * 1e9) | (none & (waited > threshold * 1e9)))
        told = m.inside & (~np.isnan(first) | passed)
        n, count = int(np.count_nonzero(told)), int(np.count_nonzero(passed))
        if n:
            found.append(Abandonment(threshold_s=threshold, n=n, passed=count, share=count / n))
    return tuple(found)
