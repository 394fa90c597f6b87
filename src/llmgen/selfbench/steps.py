"""One step: a run (`run.run`, nothing else) at one rate against an embedded server on other cores."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmgen.columns import Status
from llmgen.config import Client, Load, RunConfig, Target, Timeouts, Workload
from llmgen.errors import LlmgenError
from llmgen.metrics.verdict import judge
from llmgen.run import Result, run
from llmgen.selfbench.accuracy import Reported, reported
from llmgen.selfbench.figures import Placement, Step
from llmgen.selfbench.placement import CoreWatch, busiest, thread_seconds
from llmgen.simulator import Endpoint, Options

INTERRUPTED: Final = 130  # contract.md
INPUT_TOKENS: Final = 32  # what is sent hardly costs: one write a request
MOST_ROWS: Final = 150_000  # of a step's plan; beyond, planning and reporting take longer than the load
LEAST_ROWS: Final = 30  # fewer say nothing about a lag, and leave no gap in a window
TIMEOUTS: Final = Timeouts(connect=3.0, first_token=5.0, idle=5.0, total=20.0)  # every wait is bounded
DRAIN_S: Final = 10.0


@dataclass(frozen=True)
class Shape:
    """What is asked for. warmup_s: until as many streams are open as will be."""

    name: str
    tokens: int
    ttft: str
    itl: str
    warmup_s: float
    first_rate: float  # requests/s: a load that any machine carries
    open_s: float  # how long a request is under way

    def streams(self, rate: float) -> int:
        """Open at once, a Poisson burst included."""
        mean = rate * self.open_s
        return math.ceil(mean + 4 * math.sqrt(mean)) + 4


EVENTS: Final = Shape("events", 64, "100ms", "10ms", 0.75, 75.0, 0.75)
REQUESTS: Final = Shape("requests", 1, "10ms", "1ms", 0.2, 500.0, 0.012)
SHAPES: Final = (EVENTS, REQUESTS)

# name → (http of the configuration, TLS)
PROTOCOLS: Final = {"HTTP/1.1": ("1.1", False), "HTTP/2": ("2", False), "TLS": ("1.1", True)}


@dataclass(frozen=True)
class Server:
    endpoint: Endpoint
    target: Target
    placement: Placement
    tls: bool


@contextmanager
def serving(shape: Shape, protocol: str, placement: Placement, folder: Path, truth: Path | None) -> Iterator[Server]:
    """An embedded server for one ramp; its truth log is complete afterwards."""
    http, tls = PROTOCOLS[protocol]
    certificate = str(folder / "certificate.pem") if tls else None
    options = Options(
        ttft=shape.ttft,
        itl=shape.itl,
        cores=",".join(map(str, placement.server_cores)),
        truth=None if truth is None else str(truth),
        tls=tls,
        write_cert=certificate,
    )
    with Endpoint(options) as endpoint:
        yield Server(endpoint, Target(urls=(endpoint.url,), http=http, ca=certificate), placement, tls)


def take(server: Server, shape: Shape, rate: float, seconds: float, folder: Path) -> tuple[Step, Reported | None]:
    """Offers `rate` for about so many measured seconds. KeyboardInterrupt if the run was interrupted."""
    measured = max(LEAST_ROWS / rate, min(seconds, MOST_ROWS / rate))
    duration = shape.warmup_s + measured
    config = RunConfig(
        name="selfbench",
        target=server.target,
        load=Load(arrival="poisson", rate=rate, duration=duration, warmup=shape.warmup_s, drain=DRAIN_S),
        workload=Workload(input=INPUT_TOKENS, output=shape.tokens),
        # handshakes are no part of what TLS costs an event or a request
        client=Client(workers=1, timeouts=TIMEOUTS, preconnect=shape.streams(rate) if server.tls else 0),
    )
    before = thread_seconds(server.endpoint.pid)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            with CoreWatch(server.placement.client_core) as watch:
                result = offer(config, Path(scratch) / "run")
        except LlmgenError as error:
            return failed_step(shape, rate, duration, str(error)), None
        share = busiest(before, thread_seconds(server.endpoint.pid)) / duration
        info = run_info(result)
        busy = None if server.placement.shared else watch.busy(info["start_ns"], info["end_ns"])
        others = others_share(busy, result, info)
        return step_of(result, info, shape, rate, duration, (share, others)), reported_of(result, info)


def others_share(busy: float | None, result: Result, info: dict[str, Any]) -> float | None:
    """What the client's core did between start and end of a load beside the worker's work."""
    own, lasted = result.summary.client.cpu_s, (info["end_ns"] - info["start_ns"]) / 1e9
    return None if busy is None or own is None or lasted <= 0 else round(max(0.0, busy - own / lasted), 4)


def offer(config: RunConfig, directory: Path) -> Result:
    """KeyboardInterrupt if it was interrupted: the run keeps the signal to itself."""
    result = run(config, progress=False, quiet=True, directory=directory)
    if result.exit_code == INTERRUPTED:
        raise KeyboardInterrupt
    return result


def step_of(
    result: Result,
    info: dict[str, Any],
    shape: Shape,
    rate: float,
    duration: float,
    shares: tuple[float, float | None],
) -> Step:
    """duration: of the offered load. What is in flight at its end costs as much as what was not yet at its start.

    shares: the server's, and that of others on the client's core.
    """
    summary = result.summary
    client, load, answered = summary.client, summary.load, summary.throughput
    own = load.own_lag_ms
    environment = {**info["environment"], "timer_loop": None}  # that of an earlier selfbench
    verdict = judge(summary, {**info, "environment": environment})
    events = result.requests["events"][result.requests["status"] == Status.ok]
    return Step(
        rate=rate,
        tokens=shape.tokens,
        duration_s=duration,
        events_per_request=round(float(events.mean()), 3) if len(events) else 0.0,
        events_per_s=answered.events_per_s or 0.0,
        requests_per_s=answered.requests_per_s or 0.0,
        verdict=verdict.status,
        reasons=verdict.reasons,
        client_share=round((client.cpu_s or 0.0) / duration, 4),
        server_share=round(shares[0], 4),
        other_share=shares[1],
        cpu_us_per_event=client.cpu_us_per_event,
        lag_p50_ms=None if own is None else own.p50,
        lag_p99_ms=None if own is None else own.p99,
        ks_distance=None if load.arrivals is None else load.arrivals.ks_distance,
        steal_pct=client.steal_pct,
        failed=summary.requests.failures,
    )


def failed_step(shape: Shape, rate: float, duration: float, why: str) -> Step:
    """A step whose run could not be made, for example because the worker did not start in time."""
    return Step(
        rate=rate,
        tokens=shape.tokens,
        duration_s=duration,
        events_per_request=0.0,
        events_per_s=0.0,
        requests_per_s=0.0,
        verdict="incomplete",
        reasons=(why,),
        client_share=0.0,
        server_share=0.0,
        other_share=None,
        cpu_us_per_event=None,
        lag_p50_ms=None,
        lag_p99_ms=None,
        ks_distance=None,
        steal_pct=None,
    )


def reported_of(result: Result, info: dict[str, Any]) -> Reported:
    window = info["window"]
    return reported(
        result.requests,
        result.events,
        (window["start_ns"], window["end_ns"]),
        (info["start_ns"], info["end_ns"]),
    )


def run_info(result: Result) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((result.directory / "run.json").read_bytes())
    return told
