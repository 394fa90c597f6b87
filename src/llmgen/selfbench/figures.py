"""The shape of selfbench.json: what was measured and what follows from it. None: was not measured."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

SELFBENCH_SCHEMA: Final = "llmgen.selfbench/1"

# What ended a ramp. client: our worker is full. pacing: requests went out late or unevenly though no core was full.
# server: the embedded server's core was full, the client is good for more. machine: others used the client's core, the
# hypervisor took it away or a plain C timer loop was disturbed as well, or the server shares it. not_reached: no step
# failed.
Cause = Literal["client", "pacing", "server", "machine", "not_reached"]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Who ran where. shared: client and server had one core between them, so that every figure is a lower bound."""

    client_core: int
    server_cores: tuple[int, ...]
    shared: bool
    room: int  # workers that fit on this machine beside the controller


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """A plain C timer loop with Poisson due times. ks_distance: of its gaps from the planned ones."""

    rate: float
    n: int
    p50_us: float
    p99_us: float
    ks_distance: float | None


class TimerLoop(msgspec.Struct, frozen=True, kw_only=True):
    """p50_us and p99_us: at `rate`, the usual one; what the verdict of later runs names (machine.timer_loop)."""

    rate: float
    p50_us: float
    p99_us: float
    by_rate: tuple[Loop, ...]


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """Reported percentiles, and how far they are from those that the server logged; ms."""

    n: int
    p50_ms: float
    p99_ms: float
    p50_error_ms: float
    p99_error_ms: float


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One run at one rate. Shares of one core, over the offered span; the server's: its busiest thread's."""

    rate: float  # requests/s, offered
    tokens: int  # asked for in each answer
    duration_s: float
    events_per_request: float
    events_per_s: float  # received in the window
    requests_per_s: float
    verdict: str
    reasons: tuple[str, ...]
    client_share: float
    server_share: float
    other_share: float | None  # of the client's core, taken by other programs; None: not known
    cpu_us_per_event: float | None
    lag_p50_ms: float | None  # our own: late taking up and late sending
    lag_p99_ms: float | None
    ks_distance: float | None
    steal_pct: float | None
    failed: int = 0
    loop: Loop | None = None  # a plain C loop at this rate right after a step that failed though no core was full
    ttft: Error | None = None
    gap: Error | None = None


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """The highest load of a ramp at which the verdict stood, a core, and what ended the climb.

    at_least: the client is good for more. reserved: no step was valid; this is the highest that was not invalid.
    by_cpu: what the processor time of that step would allow if nothing else were in the way: an estimate.
    """

    per_s: float | None  # events/s or requests/s, by the ramp
    rate: float | None  # requests/s
    events_per_request: float | None
    cause: Cause
    reason: str | None = None
    reserved: bool = False
    by_cpu: float | None = None

    @property
    def at_least(self) -> bool:
        return self.cause in ("server", "machine", "not_reached")


class Ramp(msgspec.Struct, frozen=True, kw_only=True):
    protocol: Literal["HTTP/1.1", "HTTP/2", "TLS"]
    shape: Literal["events", "requests"]
    steps: tuple[Step, ...]
    limit: Limit


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's own memory (RssAnon) with `streams` open at once, against the same with `base_streams`."""

    protocol: Literal["HTTP/1.1", "HTTP/2"]
    streams: int
    base_streams: int
    base_mb: float
    mb: float
    bytes_per_stream: float


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What the box can offer over HTTP/1.1 with answers of `tokens`, from the limits of both its ramps.

    by_cpu_requests_per_s: the same from their by_cpu.
    """

    workers: int
    tokens: int
    requests_per_s: float
    tokens_per_s: float
    by_cpu_requests_per_s: float
    at_least: bool
    reserved: bool


class SelfBench(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = SELFBENCH_SCHEMA
    state: Literal["complete", "incomplete"] = "complete"
    reasons: tuple[str, ...] = ()  # why incomplete
    quick: bool = False
    started: str
    took_s: float
    placement: Placement
    timer_loop: TimerLoop | None = None
    ramps: tuple[Ramp, ...] = ()
    memory: tuple[Memory, ...] = ()
    capacity: Capacity | None = None
    sentence: str
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = {}
    versions: dict[str, str] = {}

    def ramp(self, protocol: str, shape: str) -> Ramp | None:
        return next((one for one in self.ramps if (one.protocol, one.shape) == (protocol, shape)), None)
