"""The shape of summary.json (docs/contract.md): nested structs, encoded as they are. None: does not exist, never 0."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

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
    not count. planned_cv: of the planned gaps.
    """

    ks_distance: float | None
    cv: float | None
    dispersion_1s: float | None
    dispersion_10s: float | None
    planned_cv: float | None
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
    failed ones apart. input_tokens_per_s: of requests whose first token came in it, where the server told them.
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
    """

    expression: str
    klass: str | None = msgspec.field(name="class", default=None)
    measured: float | None
    unit: str
    met: bool | None
    missing: int = 0


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A class, a target or a turn. slo: of a class, its own objectives."""

    requests: Requests
    latency: Latency
    throughput: Throughput
    slo: tuple[SloResult, ...] = ()


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = f"{SUMMARY_SCHEMA}/{SUMMARY_VERSION}"
    run_id: str | None = None
    name: str | None = None
    tags: dict[str, str] = {}
    started: str | None = None  # UTC, ISO 8601
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
