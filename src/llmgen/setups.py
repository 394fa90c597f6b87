"""What each worker is told: the plan's heads as bytes for every target, limits split over the workers, its core."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, Protocol

from llmgen import machine, sources, target
from llmgen.config import RunConfig
from llmgen.errors import ConfigError
from llmgen.planning import PlanBuilder
from llmgen.preparing import Prepared
from llmgen.schedule import Schedule
from llmgen.worker import HeadSetup, Setup, TargetSetup, TlsSetup

NS: Final = 1_000_000_000
# One worker's core carries about so much; auto picks workers for 70 % of it (see benchmarks/README.md).
EVENT_COST_S: Final = 12e-6
REQUEST_COST_S: Final = 150e-6
SHARE: Final = 0.7
USUAL_EVENTS_PER_S: Final = 50  # of a stream, where nothing but the server decides how fast a closed loop goes


def cores(count: int, pin: bool) -> list[int | None]:
    """A core of its own for every worker, from the last downwards; none if there are not enough."""
    found: list[int | None] = [*reversed(machine.affinity())]
    return found[:count] if pin and 1 < len(found) >= count else [None] * count


def setups(
    config: RunConfig, prepared: Prepared, plan: PlanBuilder, run_id: str, directory: Path, plan_dir: Path, count: int
) -> list[Setup]:
    """One a worker; slots, connections and preconnects are split over them."""
    client, t = config.client, config.target
    id_head = target.request_id(run_id)
    targets = []
    weights = t.weights or (1,) * len(prepared.targets)
    dialect = plan.dialect
    for number, (one, seen) in enumerate(zip(prepared.targets, prepared.looks, strict=True)):
        heads = target.heads(one, number, seen.protocol, plan.heads, prepared.headers, id_head, dialect.accept)
        targets.append(TargetSetup(list(one.addresses), seen.protocol, one.secure, heads, one.host, weights[number]))
    slots = split(config.load.concurrency or 0, count) if plan.schedule.closed else [0] * count
    limits = split(client.connections, count) if client.connections else [0] * count
    ready = split(client.preconnect, count)
    rules = None if dialect.rules is None else list(dialect.rules)
    heads_setup = [
        HeadSetup(head.stream, dialect.end.value, dialect.scanner, dialect.framing, dialect.tokens, rules)
        for head in plan.heads
    ]
    return [
        Setup(
            worker=number,
            directory=str(directory / f"worker-{number}"),
            plan=str(plan_dir),
            control=str(directory / "control.bin"),
            id_head=id_head,
            seed=config.seed,
            trace_prefix=int(run_id, 16),
            classes=len(plan.classes),
            heads=heads_setup,
            targets=targets,
            tls=TlsSetup(t.insecure, t.ca, t.cert, t.key) if any(one.secure for one in targets) else None,
            record_events=config.record == "events",
            core=core,
            timeout_connect=round(client.timeouts.connect * NS),
            timeout_first_token=round(client.timeouts.first_token * NS),
            timeout_idle=round(client.timeouts.idle * NS),
            timeout_total=round(client.timeouts.total * NS),
            patience=round((client.patience or 0) * NS),
            drain=round(config.load.drain * NS),
            spin=round(client.spin * NS),
            connections=limits[number],
            streams_per_connection=client.streams_per_connection or 0,
            preconnect=ready[number],
            closed_slots=slots[number],
            source_addresses=list(prepared.targets[0].sources),
            balance=t.balance,
            sticky=t.sticky,
            kernel_stamps=client.stamps == "kernel",
            traceparent=client.traceparent,
            retries=client.retries,
            resend_unprocessed=client.resend_unprocessed,
            http2_engine=client.http2_engine,
            keep_bodies=config.keep_bodies,
            secrets=target.secrets(prepared.headers),
        )
        for number, core in enumerate(cores(count, client.pin))
    ]


def check_limits(config: RunConfig, prepared: Prepared, count: int) -> None:
    """Descriptors and ports against what the plan may need at the most, as far as that is known."""
    limit = machine.raise_descriptor_limit()
    wanted = config.client.connections or config.load.concurrency
    fewer = ""
    if wanted is None and config.load.rate == math.inf:
        wanted, fewer = config.load.requests, "limit them with --connections, "  # each may need one of its own
    if wanted is None:
        return
    if all(seen.protocol == 1 for seen in prepared.looks) and wanted / count + machine.SPARE_DESCRIPTORS > limit:
        raise ConfigError(
            f"{wanted} connections need {math.ceil(wanted / count) + machine.SPARE_DESCRIPTORS} file descriptors a "
            f"worker, the limit is {limit}; {fewer}raise it with ulimit -n, or use more workers or --http 2"
        )
    addresses = sum(len([a for a in one.addresses if a[0] != "unix"]) for one in prepared.targets)
    ports = machine.ephemeral_ports() * sum(sources.pairs(one) for one in prepared.targets)
    if addresses and wanted > ports:
        raise ConfigError(
            f"{wanted} connections to {addresses} address{'es' if addresses > 1 else ''} need more than the {ports} "
            f"local ports there are; {fewer}widen net.ipv4.ip_local_port_range, name further addresses of the target, "
            "connect from several of this machine (--source-address A,B), or use --http 2"
        )


class Planned(Protocol):
    """What is known of the requests of a plan."""

    @property
    def schedule(self) -> Schedule: ...

    @property
    def rows_written(self) -> int: ...

    @property
    def planned_output(self) -> int: ...

    @property
    def last_due_ns(self) -> int: ...


def workers_wanted(config: RunConfig, plan: Planned) -> int:
    """As few as the planned events need, however many cores there are."""
    rows = max(1, plan.rows_written)
    events = plan.planned_output / rows
    schedule = plan.schedule
    if schedule.closed:
        rate = (config.load.concurrency or 1) * USUAL_EVENTS_PER_S / max(1.0, events)
    elif schedule.curve is not None:
        rate = schedule.curve.peak
    elif plan.last_due_ns:
        rate = rows / (plan.last_due_ns / NS)
    else:
        rate = rows / 1.0
    return max(1, math.ceil(rate * (events * EVENT_COST_S + REQUEST_COST_S) / SHARE))


def split(total: int | None, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most."""
    whole, rest = divmod(total or 0, parts)
    return [whole + (number < rest) for number in range(parts)]
