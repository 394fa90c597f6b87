"""The verdict on ourselves, and the exit code that follows from a run.

*valid*: the client delivered the load and measured it truly. *suspect*: it may have influenced the result. *invalid*:
it could not deliver or measure this load, or its counts do not add up. *incomplete*: interrupted, a worker lost, the
disk full. The lag that counts is the schedule lag together with send − max(acquired, connected, secured): ours alone.
With kernel stamps the token times of a suspect run stay true as long as each token is read before the next one comes,
and the report says so; not where streams share an HTTP/2 connection. Reasons name the number, and how many workers
would have been enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from llmgen.columns import Status
from llmgen.decoding import closest, wrong
from llmgen.errors import ConfigError
from llmgen.metrics.figures import Summary, Verdict
from llmgen.metrics.statistics import needed

MIN_GAPS: Final = 20  # fewer gaps say nothing about a distribution: at 20 the step of a KS distance is 0.05
KS_RATE: Final = 5000.0  # per second; above, gaps are as short as a kernel's timer is late: a C loop's are 0.1 off too
AT_ONCE: Final = "all at once"  # schedule.describe(): no time is promised to any request but the first
WORKER_CPU_TARGET: Final = 0.6  # load of a worker that leaves room for bursts; for "how many would have been enough"


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """When a run is suspect or invalid. Shares are of 1."""

    # Lag below 2 ms or 2 % of the median TTFT moves no conclusion about TTFT; ten times as much moves all of them.
    suspect_lag_ms: float = 2.0
    suspect_lag_share: float = 0.02
    invalid_lag_ms: float = 20.0
    invalid_lag_share: float = 0.20
    # Twice what a plain C timer loop shows on a noisy shared machine (0.04-0.06): beyond it the process is another one.
    suspect_ks: float = 0.1
    # One percent less load than offered is about the width of a capacity interval; five is another operating point.
    suspect_delivered: float = 0.99
    invalid_delivered: float = 0.95
    # Above 85 % a Poisson burst finds no idle time left and waits in our queue instead of the server's.
    suspect_worker_cpu: float = 0.85
    # Where user space stamps, the drain lag is in every token's time; 2 ms as for the schedule lag.
    suspect_drain_lag_us: float = 2000.0
    # A read later than half a gap after its token often brings the next one too, and only the last has its own time.
    suspect_drain_share: float = 0.5
    # The hypervisor took the core away for 20 ms of every second: tails are its own.
    suspect_steal_pct: float = 2.0
    # Any step moves kernel stamps (CLOCK_REALTIME) against ours.
    suspect_clock_steps: int = 0
    # One request in a thousand that our own limits stopped already shows in a p99.9.
    invalid_client_limit: float = 0.001


def thresholds(given: Mapping[str, Any]) -> Thresholds:
    """The thresholds with those of `given` (the configuration's `verdict`) in their place.

    ConfigError: unknown key, no number at or above 0, a share above 1, or suspect beyond invalid.
    """
    known = {field.name: field.type for field in msgspec.structs.fields(Thresholds)}
    for name, value in given.items():
        key = f"verdict.{name}"
        if name not in known:
            raise ConfigError(f"{key}: unknown key; {closest(name, known)}")
        if not 0 <= value < math.inf:
            raise wrong(key, value, "must be a number, 0 or above")
        if name.endswith("_delivered") and value > 1:
            raise wrong(key, value, "is a share of the offered load: at most 1")
        if known[name] is int and value != int(value):
            raise wrong(key, value, "must be a whole number")
    found = Thresholds(**given)
    for low, high in (
        ("suspect_lag_ms", "invalid_lag_ms"),
        ("suspect_lag_share", "invalid_lag_share"),
        ("invalid_delivered", "suspect_delivered"),
    ):
        first, second = getattr(found, low), getattr(found, high)
        if first > second:
            raise ConfigError(f"verdict.{low}={first:g} is above {high}={second:g}; set both")
    return found


def thresholds_of(info: Mapping[str, Any]) -> Thresholds:
    """Those that a run was configured with (run.json); what this version does not know is left out."""
    given = (info.get("config") or {}).get("verdict") or {}
    known = {field.name for field in msgspec.structs.fields(Thresholds)}
    return Thresholds(**{name: value for name, value in given.items() if name in known})


def judge(summary: Summary, info: dict[str, Any], thresholds: Thresholds | None = None) -> Verdict:
    """The verdict of a summary whose own verdict is not read.

    info: run.json (state, reasons, workers_detail, config, environment). thresholds: None: those of the run.
    """
    t = thresholds or thresholds_of(info)
    incomplete = _incomplete(summary, info)
    invalid = _invalid(summary, info, t, complete=not incomplete)
    suspect = _suspect(summary, info, t, complete=not incomplete, already=invalid)
    status = "incomplete" if incomplete else "invalid" if invalid else "suspect" if suspect else "valid"
    notes = _notes(summary)
    if info.get("insecure"):
        notes = ("the server's certificate was not verified (--insecure)", *notes)
    if suspect and not incomplete and not invalid and summary.client.stamps == "kernel":
        if _streams_share(info):
            notes = (
                "over HTTP/2 streams share reads: tokens may be as late in these figures as requests went out",
                *notes,
            )
        elif _shared_reads(summary, t) is None:
            notes = ("the tokens' times stay true: they are the kernel's, not ours", *notes)
    return Verdict(status=status, reasons=(*incomplete, *invalid, *suspect), notes=notes)  # type: ignore[arg-type]


def _incomplete(summary: Summary, info: dict[str, Any]) -> list[str]:
    reasons = [str(reason) for reason in info.get("reasons") or ()]
    if info.get("state") == "running":
        reasons.append("the controller did not live to the end of the run")
    elif info.get("state") != "complete" and not reasons:
        reasons.append("the run did not come to its end")
    elif info.get("state") == "complete":
        reasons = []
    if summary.requests.lost and not reasons:
        reasons.append(f"{_requests(summary.requests.lost)} in flight when their worker died")
    return reasons


def _invalid(summary: Summary, info: dict[str, Any], t: Thresholds, *, complete: bool) -> list[str]:
    reasons: list[str] = []
    r = summary.requests
    if not r.adds_up:
        parts = r.succeeded + r.failures + r.cancelled + r.never_sent + r.lost
        reasons.append(f"the counts do not add up: {r.scheduled} scheduled, {parts} accounted for (a bug of ours)")
    lag, limit = _lag(summary, t.invalid_lag_ms, t.invalid_lag_share)
    if lag is not None and lag > limit:
        reasons.append(f"{_lag_text(summary, info, lag, limit)}{_enough(summary, info)}")
    delivered = _delivered(summary)
    if complete and delivered is not None and delivered < t.invalid_delivered:
        reasons.append(f"{_delivered_text(summary, delivered)}{_enough(summary, info)}")
    limited = r.failed.get(Status.client_limit.name, 0)
    if limited > t.invalid_client_limit * r.scheduled:
        reasons.append(
            f"our own limits (descriptors, ports or slots) stopped {_requests(limited)} of {r.scheduled}; "
            "llmgen check says which; see ulimit -n, --source-address, --http 2, or use more machines"
        )
    blocked = sum(int(w.get("flow_blocked") or 0) for w in info.get("workers_detail") or ())
    if blocked:
        reasons.append(f"our flow-control windows kept the server waiting for {blocked / 1e6:.3g} ms")
    return reasons


def _suspect(summary: Summary, info: dict[str, Any], t: Thresholds, *, complete: bool, already: list[str]) -> list[str]:
    reasons: list[str] = []
    lag, limit = _lag(summary, t.suspect_lag_ms, t.suspect_lag_share)
    _, invalid_limit = _lag(summary, t.invalid_lag_ms, t.invalid_lag_share)
    if lag is not None and limit < lag <= invalid_limit:
        reasons.append(f"{_lag_text(summary, info, lag, limit)}{_enough(summary, info)}")
    delivered = _delivered(summary)
    if complete and delivered is not None and t.invalid_delivered <= delivered < t.suspect_delivered:
        reasons.append(f"{_delivered_text(summary, delivered)}{_enough(summary, info)}")
    arrivals = summary.load.arrivals
    telling_gaps = summary.window.requests.sent > MIN_GAPS and (summary.load.offered_rate or 0.0) <= KS_RATE
    if (
        arrivals is not None
        and arrivals.ks_distance is not None
        and telling_gaps
        and arrivals.ks_distance > t.suspect_ks
    ):
        reasons.append(
            f"gaps between requests as sent are {arrivals.ks_distance:.2f} from the planned ones "
            f"(KS distance, limit {t.suspect_ks:g})"
        )
    client = summary.client
    if (
        client.cpu_share_max is not None
        and client.cpu_share_max > t.suspect_worker_cpu
        and not any("workers would" in reason for reason in already)
    ):
        reasons.append(
            f"a worker used {client.cpu_share_max:.0%} of its core (limit {t.suspect_worker_cpu:.0%})"
            f"{_enough(summary, info)}"
        )
    drain = client.drain_lag_us
    if client.stamps in ("user", "mixed") and drain is not None and drain.p99 > t.suspect_drain_lag_us:
        reasons.append(f"tokens waited {drain.p99 / 1000:.1f} ms (p99) for their user-space stamp")
    shared = None if _streams_share(info) else _shared_reads(summary, t)
    if shared is not None:
        reasons.append(shared)
    if client.steal_pct is not None and client.steal_pct > t.suspect_steal_pct:
        reasons.append(f"the hypervisor took {client.steal_pct:.1f} % of the processor time away (steal)")
    if client.clock_steps is not None and client.clock_steps > t.suspect_clock_steps:
        reasons.append(f"the system clock was stepped {client.clock_steps} times")
    return reasons


def _notes(summary: Summary) -> tuple[str, ...]:
    """What a reader should know that is no fault of the run."""
    notes: list[str] = []
    ratio = summary.tokens.output_ratio
    if ratio is not None and abs(ratio - 1) > 0.05:  # metrics.md: asked against got, a warning above 5 %
        notes.append(f"answers had {ratio:.0%} of the output tokens asked for")
    if summary.tokens.output_source.get("events"):
        count = summary.tokens.output_source["events"]
        notes.append(f"{_requests(count)} without usage: their output tokens are counted token events")
    ttft = summary.latency.ttft_ms
    if ttft is not None and "p99" in ttft.too_few:
        notes.append(f"{ttft.n} values are too few for a p99 ({needed(0.99)} would do)")
    return tuple(notes)


def _streams_share(info: Mapping[str, Any]) -> bool:
    """Do several streams share a connection? Each read then has one stamp for all of them, and the kernel merges what
    it has not given out yet: a drain lag counts from the last byte and says nothing of the others."""
    one_each = ((info.get("config") or {}).get("client") or {}).get("streams_per_connection") == 1
    return not one_each and any(server.get("protocol") == 2 for server in info.get("server") or ())


def _shared_reads(summary: Summary, t: Thresholds) -> str | None:
    """Why tokens that the kernel stamped do not have times of their own, as we read them late; None: they have."""
    client, gap = summary.client, summary.latency.itl_ms
    drain = client.drain_lag_us
    # below what is allowed to user-space stamps it is no fault of ours: an engine may emit that fast
    if client.stamps == "user" or drain is None or gap is None or not client.coalesced_share:
        return None
    if drain.p99 <= max(t.suspect_drain_lag_us, t.suspect_drain_share * gap.p50 * 1000):
        return None
    text = f"tokens waited {drain.p99 / 1000:.1f} ms (p99) to be read, and one comes every {gap.p50:.1f} ms: "
    text += f"{client.coalesced_share:.0%} of the events shared a read"
    if client.stamp_uncertainty_us is not None:
        text += f" and are late by at most {client.stamp_uncertainty_us.p99 / 1000:.1f} ms (p99)"
    return text


def _lag(summary: Summary, floor_ms: float, share: float) -> tuple[float | None, float]:
    """p99 of our own lag and its limit, ms. The share is of the median TTFT; of E2E where nothing streamed."""
    typical = summary.latency.ttft_ms or summary.latency.e2e_ms
    limit = max(floor_ms, share * typical.p50 if typical is not None else 0.0)
    own = summary.load.own_lag_ms or summary.load.schedule_lag_ms
    if own is None or summary.load.arrival == AT_ONCE:
        return None, limit
    return own.p99, limit


def _lag_text(summary: Summary, info: dict[str, Any], lag: float, limit: float) -> str:
    text = f"requests went out late by {lag:.1f} ms (schedule lag p99, limit {limit:.1f} ms)"
    cpu, steal = summary.client.cpu_share_max, summary.client.steal_pct
    if cpu is not None and cpu < WORKER_CPU_TARGET:
        text += f"; the busiest worker used only {cpu:.0%} of its core, so other load on this machine"
        text += f" or its hypervisor (steal {steal:.1f} %)" if steal is not None else " or its hypervisor"
        text += " is the likely cause"
    loop = (info.get("environment") or {}).get("timer_loop") or {}
    if isinstance(loop.get("p99_us"), (int, float)):
        text += f"; a plain C timer loop was late by {loop['p99_us'] / 1000:.1f} ms here (p99, llmgen selfbench)"
    return text


def _delivered(summary: Summary) -> float | None:
    """Share of the scheduled requests that we brought to the target; one that the target refused was brought to it."""
    # of sessions their first turns: what follows a failed turn is never due, and that is no fault of ours
    r = summary.turns["0"].requests if "0" in summary.turns else summary.requests
    refused = ("dns_error", "connect_refused", "connect_timeout", "connect_error", "tls_error")
    if not r.scheduled:
        return None
    return min(1.0, (r.sent + sum(r.failed.get(name, 0) for name in refused)) / r.scheduled)


def _delivered_text(summary: Summary, delivered: float) -> str:
    load = summary.load
    rates = ""
    if load.offered_rate is not None and load.achieved_rate is not None:
        rates = f" ({load.achieved_rate:.4g} of {load.offered_rate:.4g} requests/s)"
    return f"only {delivered:.1%} of the offered load was delivered{rates}"


def workers_enough(summary: Summary) -> int | None:
    """How many workers would have been enough; None where the processor was not the limit."""
    cpu, workers = summary.client.cpu_share_max, summary.client.workers
    if cpu is None or not workers or cpu < WORKER_CPU_TARGET:
        return None
    # a worker that is full cannot show how much it lacks: what it did not deliver counts with what it did
    backlog = 1.0
    if summary.load.offered_rate and summary.load.achieved_rate:
        backlog = max(1.0, summary.load.offered_rate / summary.load.achieved_rate)
    return max(workers + 1, math.ceil(workers * cpu * backlog / WORKER_CPU_TARGET))


def _enough(summary: Summary, info: dict[str, Any]) -> str:
    """`workers_enough`, and machines like this one."""
    wanted = workers_enough(summary)
    if wanted is None:
        return ""
    text = f"; about {wanted} workers would have been enough"
    environment = info.get("environment") or {}
    cores = len(environment.get("affinity") or ())
    if not cores:
        return text
    if environment.get("quota_cores"):
        cores = min(cores, math.floor(environment["quota_cores"]))
    room = max(1, cores - 1)  # the controller has a core to itself, as in run.py
    if wanted <= room:
        return f"{text} (--workers {wanted})"
    return f"{text}: {math.ceil(wanted / room)} machines like this one, with {room} workers each"


def _requests(count: int) -> str:
    return f"{count} request" + ("" if count == 1 else "s")


def exit_code(summary: Summary, *, interrupted: bool = False) -> int:
    """contract.md's exit code, after 1 and 2: 130 interrupted, 5 nothing succeeded, 4 not believable, 3 SLO missed."""
    if interrupted:
        return 130
    if summary.requests.scheduled and not summary.requests.succeeded:
        return 5
    if summary.verdict.status in ("invalid", "incomplete"):
        return 4
    results = [*summary.slo, *(result for group in summary.classes.values() for result in group.slo)]
    return 3 if any(result.met is False for result in results) else 0
