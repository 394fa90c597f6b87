"""The load against this machine's limits: descriptors, ports, streams, workers."""

from __future__ import annotations

import math
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmgen import machine, setups
from llmgen.checks import ports
from llmgen.checks.findings import CONFIGURATION, Check, fail, milliseconds, ok, warn
from llmgen.checks.warm import Warm
from llmgen.config import RunConfig
from llmgen.plan import PlanReader
from llmgen.planning import PlanBuilder
from llmgen.preflight import Look
from llmgen.target import Target

GROUP: Final = "This load"
# Requests in flight of a Poisson process scatter around their mean like its root; four of it are met once in 30,000.
SIGMAS: Final = 4.0
NS: Final = 1_000_000_000


@dataclass(frozen=True)
class Need:
    """What the load will want at its peak, as far as one request alone can tell."""

    in_flight: int | None  # None: not known without an answer
    why: str
    workers: int
    body_bytes: int  # the largest request of the plan's beginning


def look(config: RunConfig, targets: list[Target], looks: list[Look | None], warm: Warm | None) -> list[Check]:
    """looks: what is known of each target, None if it cannot be reached."""
    seen = [one for one in looks if one is not None]
    with tempfile.TemporaryDirectory(prefix="llmgen-check-") as folder:
        model = config.target.model or (seen[0].models[0] if seen and seen[0].models else None)
        plan = PlanBuilder(config, Path(folder), 1, model)
        plan.write_next()
        need = needed(config, plan, Path(folder), warm)
        text = plan.schedule.describe()
    checks = [ok(GROUP, "in flight", f"{text}: {need.why}", in_flight=need.in_flight)]
    checks.append(workers(config, need))
    connections, per_connection = wanted_connections(config, seen, need)
    if any(one.protocol == 2 for one in seen):
        checks.append(streams(config, seen, need, per_connection))
    checks.append(descriptors(config, need, connections))
    checks += [local_ports(one, connections, len(targets)) for one in targets if one.addresses[0][0] != "unix"]
    return checks


def needed(config: RunConfig, plan: PlanBuilder, plan_dir: Path, warm: Warm | None) -> Need:
    """The peak in flight by Little's law, from the time that one request takes on an idle server."""
    rows = max(1, plan.rows_written)
    wanted = setups.workers_wanted(config, plan)
    body = int(PlanReader(plan_dir).rows(0)["body_bytes"].max()) if plan.rows_written else 0
    schedule, slots = plan.schedule, config.load.concurrency
    if slots is not None:
        return Need(slots, f"{slots} slots", wanted, body)
    if schedule.at_once:
        count = schedule.requests or rows
        return Need(count, f"up to {count}", wanted, body)
    if schedule.curve is not None:
        rate = schedule.curve.peak
    else:
        rate = rows / max(1e-9, plan.last_due_ns / NS)
    if warm is None:
        return Need(None, "not known without an answer", wanted, body)
    tokens = plan.planned_output / rows
    alone = warm.end if warm.ttft is None or warm.gap is None else warm.ttft + warm.gap * max(0.0, tokens - 1)
    mean = rate * alone
    peak = math.ceil(mean + SIGMAS * math.sqrt(mean))
    why = f"about {mean:.3g}, at most {peak}, if answers take {milliseconds(alone)} as on an idle server"
    return Need(peak, why, wanted, body)


def workers(config: RunConfig, need: Need) -> Check:
    room = max(1, machine.usable_cores() - 1)
    count = config.client.workers or min(need.workers, room)
    text = f"{count} of about {need.workers} that it wants" if need.workers > count else f"{count} is enough"
    data = {"wanted": need.workers, "used": count, "room": room}
    if need.workers <= count:
        return ok(GROUP, "workers", text, **data)
    if need.workers <= room:
        return warn(GROUP, "workers", text, f"use --workers {need.workers}, or leave it out", **data)
    cure = f"{math.ceil(need.workers / room)} machines like this one would do, or as many more cores here"
    return warn(GROUP, "workers", text, cure, **data)


def wanted_connections(config: RunConfig, seen: list[Look], need: Need) -> tuple[int | None, int | None]:
    """Connections at the peak, and streams on each of them (None: HTTP/1.1)."""
    limit, peak = config.client.connections, need.in_flight
    if not seen or any(one.protocol == 1 for one in seen):
        most = peak if limit is None else limit if peak is None else min(limit, peak)
        return most, None
    told = [one.facts.get("http2_settings", {}).get("max_concurrent_streams") for one in seen]
    bounds = [n for n in (*told, config.client.streams_per_connection) if n is not None]
    each = min(bounds) if bounds else None
    if limit is not None or peak is None:
        return limit, each
    return (1 if each is None else math.ceil(peak / max(1, each))), each


def streams(config: RunConfig, seen: list[Look], need: Need, each: int | None) -> Check:
    """HTTP/2: the room on the permitted connections, and the window for a request's body."""
    windows = [one.facts.get("http2_settings", {}).get("initial_window_size", 65535) for one in seen]
    limit, peak = config.client.connections, need.in_flight
    text = f"{'any number' if each is None else each} a connection"
    data: dict[str, Any] = {"per_connection": each, "connections": limit, "in_flight": peak}
    if limit is not None and each is not None and peak is not None and limit * each < peak:
        text += f", {limit * each} on {limit} connection{'s' if limit > 1 else ''} for up to {peak} requests"
        return warn(GROUP, "streams", text, f"use --connections {math.ceil(peak / each)}: requests would wait", **data)
    if windows and need.body_bytes > min(windows):
        text += f", bodies of up to {need.body_bytes} bytes in a window of {min(windows)}"
        cure = "each request waits for the server to open its window; a larger SETTINGS_INITIAL_WINDOW_SIZE there helps"
        return warn(GROUP, "streams", text, cure, **data)
    return ok(GROUP, "streams", text, **data)


def descriptors(config: RunConfig, need: Need, connections: int | None) -> Check:
    """The limit of open files, which our processes raise as far as they may, against the connections of a worker."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = machine.raise_descriptor_limit()
    room = limit - machine.SPARE_DESCRIPTORS
    count = config.client.workers or min(need.workers, max(1, machine.usable_cores() - 1))
    text = f"{limit} a worker" + (f" (raised from {before})" if before not in (limit, resource.RLIM_INFINITY) else "")
    data = {"limit": limit, "soft_before": before, "connections": connections, "workers": count}
    cure = "ulimit -n, LimitNOFILE= or docker --ulimit nofile; or more workers, --connections N, --http 2"
    if connections is None:
        return ok(GROUP, "descriptors", f"{text}, room for {room} connections", **data)
    each = math.ceil(connections / count)
    text += f" for up to {each} connections"
    if each > room:
        return fail(GROUP, "descriptors", text, cure, CONFIGURATION, **data)
    if 2 * each > room:
        return warn(GROUP, "descriptors", text, f"a slower server doubles what is in flight: {cure}", **data)
    return ok(GROUP, "descriptors", text, **data)


def local_ports(one: Target, connections: int | None, targets: int) -> Check:
    """Ephemeral ports that are free towards the target's addresses."""
    found = ports.look(one)
    text = f"{found.free} of {found.pairs * found.range} free"
    if found.waiting:
        text += f", {found.waiting} in TIME_WAIT"
    data = {"free": found.free, "pairs": found.pairs, "taken": found.taken, "time_wait": found.waiting}
    if connections is None:
        return ok(GROUP, "ports", text, **data)
    share = math.ceil(connections / targets)
    text += f", for up to {share} connections"
    several = math.ceil(share / max(1, found.range)) * 2
    cure = (
        f"connect from {several} local addresses (--source-address A,B), speak HTTP/2 (--http 2), limit them "
        "(--connections N), or widen net.ipv4.ip_local_port_range"
    )
    if share > found.free:
        return fail(GROUP, "ports", text, cure, CONFIGURATION, **data)
    if 2 * share > found.free:
        return warn(GROUP, "ports", text, f"a slower server doubles what is in flight: {cure}", **data)
    return ok(GROUP, "ports", text, **data)
