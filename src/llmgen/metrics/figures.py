"""The shape of summary.json (docs/contract.md): nested structs, encoded as they are. None: does not exist, never 0."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from llmgen.metrics.server_figures import Server
from llmgen.metrics.statistics import Dist

SUMMARY_SCHEMA: Final = "llmgen.summary"
SUMMARY_VERSION: Final = 1


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the instrument can be believed; reasons in plain words, the worst first.

    notes: what else a reader must know.
    """

    status: Literal["valid", "suspect", "invalid", "incomplete"]
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How requests ended: scheduled = succeeded + sum of failed + cancelled + never_sent + lost."""

    scheduled: int
    sent: int
    succeeded: int
    failed: dict[str, int]
    cancelled: int
    never_sent: int
    lost: int

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    @property
    def adds_up(self) -> bool:
        return self.scheduled == self.succeeded + self.failures + self.cancelled + self.never_sent + self.lost


class Requests(Counts, frozen=True, kw_only=True):
    http_status: dict[str, int]
    finish: dict[str, int]
    stale_resends: int


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The measured part, by due time: seconds since the start, and the requests due in it."""

    start_s: float
    end_s: float
    duration_s: float
    requests: Counts


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """Sent against planned gaps between requests of the window.

    ks_distance: two-sample; where planned gaps have steps (constant arrivals), gaps off by less than tolerance_ms do
    not count. dispersion: variance / mean of the requests in each 1 s or 10 s, of ten of these or more. planned_…: the
    plan's.
    """

    ks_distance: float | None
    cv: float | None
    dispersion_1s: float | None
    dispersion_10s: float | None
    planned_cv: float | None
    planned_dispersion_1s: float | None = None
    planned_dispersion_10s: float | None = None
    tolerance_ms: float


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What was offered. own_lag: schedule lag plus the time from a usable connection to the first byte's syscall."""

    arrival: str | None
    offered_rate: float | None
    achieved_rate: float | None
    duration_s: float
    schedule_lag_ms: Dist | None
    own_lag_ms: Dist | None
    send_lag_ms: Dist | None
    peak_in_flight: int
    arrivals: Arrivals | None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of the window's requests that have the stamps; definitions.py says what each is."""

    ttft_ms: Dist | None = None
    ttft_from_due_ms: Dist | None = None
    ttfo_ms: Dist | None = None
    tpot_ms: Dist | None = None
    itl_ms: Dist | None = None
    chunk_gap_ms: Dist | None = None
    stall_ms: Dist | None = None
    e2e_ms: Dist | None = None
    e2e_from_due_ms: Dist | None = None
    normalised_ms: Dist | None = None
    queue_ms: Dist | None = None
    connect_ms: Dist | None = None
    tls_ms: Dist | None = None


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Per second of the window.

    requests_per_s: successful ones that ended in it. output_tokens_per_s: of requests that did not fail; those of
    failed ones apart. input_tokens_per_s: of requests whose first token (embeddings: answer) came in it, where the
    server told them.
    goodput: good / all scheduled in the window, with its Wilson interval; None without a per-request limit.
    """

    requests_per_s: float | None = None
    output_tokens_per_s: float | None = None
    failed_output_tokens_per_s: float | None = None
    input_tokens_per_s: float | None = None
    events_per_s: float | None = None
    goodput_requests_per_s: float | None = None
    goodput: float | None = None
    goodput_ci95: tuple[float, float] | None = None


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the window's successful requests, each over those where it is known.

    output_ratio: got / asked over requests that know both. tokens_per_event: of token events, by request (mean).
    """

    input: int | None
    output: int | None
    reasoning: int | None
    cached: int | None
    output_source: dict[str, int]
    planned_input: int | None
    planned_output: int | None
    output_ratio: float | None
    tokens_per_event: Dist | None


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Our own health, over the whole run. ttft_user, chunk_gap_user: what user-space stamps would have said."""

    workers: int | None
    cpu_s: float | None
    cpu_us_per_event: float | None
    cpu_share_max: float | None
    drain_lag_us: Dist | None
    stamp_uncertainty_us: Dist | None
    ttft_user_ms: Dist | None
    chunk_gap_user_ms: Dist | None
    coalesced_share: float | None
    peak_rss_mb: float | None
    stamps: Literal["kernel", "user", "mixed"] | None
    steal_pct: float | None
    clock_steps: int | None


class SloResult(msgspec.Struct, frozen=True, kw_only=True):
    """An objective and what the run did.

    measured: in `unit`; None where nothing was measured or, with missing > 0, infinite. For a limit on each request the
    share of scheduled requests that kept it; its `met` is None where a goodput objective judges, else whether all did.
    missing: failed or unfinished requests (for itl and chunk_gap: tokens that never came) that counted as +inf.
    attainment: of an aggregate latency, the share of all scheduled requests below its value; n: how many they are;
    ci95: its Wilson interval, of shares.
    """

    expression: str
    klass: str | None = msgspec.field(name="class", default=None)
    measured: float | None
    unit: str
    met: bool | None
    missing: int = 0
    n: int | None = None
    attainment: float | None = None
    ci95: tuple[float, float] | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A class, a target or a turn. slo: of a class, its own objectives."""

    requests: Requests
    latency: Latency
    throughput: Throughput
    slo: tuple[SloResult, ...] = ()


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """The run in equal windows of `width_s` from its start, a value each; at most 60. None: too few values.

    Counts and latencies by due time, tokens/s and in_flight (at the window's end) by when they happened. measured:
    whether the window lies wholly in the measured part.
    """

    width_s: float
    measured: tuple[bool, ...]
    scheduled: tuple[int, ...]
    succeeded: tuple[int, ...]
    failed: tuple[int, ...]
    in_flight: tuple[int, ...]
    output_tokens_per_s: tuple[float, ...]
    ttft_from_due_p50_ms: tuple[float | None, ...]
    ttft_from_due_p95_ms: tuple[float | None, ...]
    ttft_from_due_p99_ms: tuple[float | None, ...]
    itl_p50_ms: tuple[float | None, ...]
    itl_p95_ms: tuple[float | None, ...]
    itl_p99_ms: tuple[float | None, ...]
    e2e_p50_ms: tuple[float | None, ...]
    e2e_p95_ms: tuple[float | None, ...]
    e2e_p99_ms: tuple[float | None, ...]


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """Drift of a figure over the windows: Theil-Sen slope, and Mann-Kendall corrected for autocorrelation.

    change: of the fitted line over the run, relative to the median (of a rate or share: absolute). drifting:
    significant and larger than the threshold (stability.py); worse: and in the direction that nobody wants.
    """

    metric: str
    windows: int
    width_s: float
    slope_per_hour: float
    change: float
    tau: float
    p_value: float
    drifting: bool
    worse: bool = False


class Binned(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles (ms) of requests whose tokens lie in low <= tokens < high; None for fewer than five."""

    low: int
    high: int
    n: int
    p50: float | None
    p95: float | None


class ByTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Latency against token counts. Input: as the server told, else as planned; context: input and output together."""

    ttft_by_input: tuple[Binned, ...] = ()
    tpot_by_context: tuple[Binned, ...] = ()
    e2e_by_output: tuple[Binned, ...] = ()


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Whose patience ended: ours by phase, the server's (408, 504, a timeout event), and its other failures.

    *_after_ms: from due to the end of those requests.
    """

    client: dict[str, int]
    client_after_ms: Dist | None
    server_timeout: int
    server_timeout_after_ms: Dist | None
    server_failures: dict[str, int]


class Abandonment(msgspec.Struct, frozen=True, kw_only=True):
    """Requests whose TTFT from due passed a threshold, of the n that had a first token or waited that long for one."""

    threshold_s: float
    n: int
    passed: int
    share: float | None


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions whose first turn is due in the window. duration_ms: first due to last end, where every turn succeeded.

    goodput: sessions of which every turn kept its limits / all sessions. held_back: those of the later_turns whose time
    in the trace came before the end of the answer that they follow, so that they were due at that end.
    """

    sessions: int
    succeeded: int
    later_turns: int = 0
    held_back: int = 0
    turns_per_session: Dist | None
    duration_ms: Dist | None
    goodput: float | None
    goodput_ci95: tuple[float, float] | None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """In the currency of the user's prices. From GPU hours, or (tokens_*) from prices of tokens."""

    per_million_output_tokens: float | None = None
    per_thousand_requests: float | None = None
    per_million_good_output_tokens: float | None = None
    per_thousand_good_requests: float | None = None
    tokens_total: float | None = None
    tokens_per_thousand_requests: float | None = None
    tokens_per_thousand_good_requests: float | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What another tool would have printed (profiles.py): figures in ms by its names, and what this run cannot tell."""

    name: str
    requests: int
    metrics: dict[str, Dist]
    notes: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A rule of diagnosis.py that fits: what it suspects, the numbers that say so, and what to try."""

    rule: str
    suspicion: str
    evidence: tuple[str, ...]
    advice: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = f"{SUMMARY_SCHEMA}/{SUMMARY_VERSION}"
    run_id: str | None = None
    name: str | None = None
    tags: dict[str, str] = {}
    started: str | None = None  # UTC, ISO 8601
    fingerprint: dict[str, str] = {}  # what was offered, by key of the configuration; runs are compared by it first
    record: str = "events"
    verdict: Verdict
    requests: Requests
    window: Window
    load: Load
    latency: Latency
    throughput: Throughput
    tokens: Tokens
    client: Client
    slo: tuple[SloResult, ...] = ()
    classes: dict[str, Group] = {}
    targets: dict[str, Group] = {}
    turns: dict[str, Group] = {}
    windows: Windows | None = None
    stability: tuple[Trend, ...] = ()
    by_tokens: ByTokens = ByTokens()
    timeouts: Timeouts | None = None
    abandonment: tuple[Abandonment, ...] = ()
    sessions: Sessions | None = None
    cost: Cost | None = None
    diagnosis: tuple[Finding, ...] = ()
    server: Server | None = None
    profiles: dict[str, Profile] = {}  # those that were asked for
