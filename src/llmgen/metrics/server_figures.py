"""The shape of summary.json's `server`: what it said of itself in the window. None: it did not say so, never 0."""

from __future__ import annotations

import msgspec


class ServerSource(msgspec.Struct, frozen=True, kw_only=True):
    """A metrics page (or gpu:local). family: whose names it uses. scrape_ms: median time a page took."""

    url: str
    family: str | None
    every_s: float
    scrapes: int
    failed: int
    scrape_ms: float | None


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """mean: over time. Units are SI, shares are of 1."""

    unit: str
    mean: float
    min: float
    max: float
    last: float


class Counter(msgspec.Struct, frozen=True, kw_only=True):
    """What came in the window; resets by a restart are taken out."""

    unit: str
    increase: float
    per_s: float


class ServerHistogram(msgspec.Struct, frozen=True, kw_only=True):
    """What came in the window, ms (or `unit`). mean: sum / count. p50, p95: the bucket that holds it, [low, high].

    An upper bound of None is the endless bucket's.
    """

    unit: str
    n: float
    mean: float
    p50: tuple[float, float | None] | None = None
    p95: tuple[float, float | None] | None = None


class ServerMark(msgspec.Struct, frozen=True, kw_only=True):
    """kind: restart, exporter_restart, unreachable (until_s: the next answer), xid. t_s: since the start of the run."""

    kind: str
    t_s: float
    until_s: float | None = None
    source: str
    what: str


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """The client's mean against the server's, both of the window; added_ms: what lies between them.

    That is network, proxies, TLS, accepting, parsing, and what either side does not count. n differs where others use
    the server too, or a page was read late.
    """

    client_n: int
    server_n: float
    client_mean_ms: float
    server_mean_ms: float
    added_ms: float


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """Spearman's rank correlation of a server's series with the client's mean TTFT by send time, in bins of width_s.

    rho: the largest in size over lags; lag_s: at which, positive if the series moved first. at_once: without lag.
    """

    series: str
    rho: float
    lag_s: float
    at_once: float
    bins: int
    width_s: float


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """All sources together; gpus: each by itself, named SOURCE:GPU."""

    sources: tuple[ServerSource, ...]
    gauges: dict[str, Gauge] = {}
    counters: dict[str, Counter] = {}
    histograms: dict[str, ServerHistogram] = {}
    gpus: dict[str, dict[str, Gauge]] = {}
    prefix_hit_rate: float | None = None
    spec_acceptance: float | None = None
    process_cpus: float | None = None  # cores that the servers' processes used
    node_cpu_share: float | None = None
    joules_per_output_token: float | None = None
    load_time_s: float | None = None
    against: dict[str, Against] = {}
    correlation: tuple[Correlation, ...] = ()
    marks: tuple[ServerMark, ...] = ()
