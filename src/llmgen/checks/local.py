"""This machine: cores, clocks, stamps, and how much of it is really ours."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from llmgen import machine, setups
from llmgen.checks.findings import Check, ok, warn
from llmgen.config import RunConfig
from llmgen.metrics.verdict import Thresholds
from llmgen.preparing import PROXY_VARIABLES

GROUP: Final = "This machine"
SAMPLE_S: Final = 1.0  # of stolen time, which /proc/stat counts in steps of 10 ms: one step a core is 1 %
WAIT_NS: Final = 1_000_000  # a timer's usual job; 400 of them bring a p99 and leave time for the rest of the sample
WAITS: Final = 400
CLOCK_READS: Final = 2000
# A read through the vDSO costs 20 to 50 ns, a few more of Python's call; one that needs a system call half a
# microsecond and up, several times for every event.
SLOW_CLOCK_NS: Final = 400.0
SO_TIMESTAMPNS: Final = 35  # <asm-generic/socket.h>; the control message has the same number
STAMP_WAIT_S: Final = 2.0
PROBES: Final = 20


def look(config: RunConfig, limits: Thresholds) -> list[Check]:
    """Takes about SAMPLE_S."""
    until = time.monotonic() + SAMPLE_S
    before = machine.cpu_times()
    found = [cores(config), frequency(), clock(), stamps(config), timer(limits)]
    time.sleep(max(0.0, until - time.monotonic()))
    found.append(steal(before, machine.cpu_times(), limits))
    return found + proxies()


def cores(config: RunConfig) -> Check:
    allowed, quota, count = machine.affinity(), machine.quota_cores(), config.client.workers or 1
    usable = machine.usable_cores()
    pinned = setups.cores(count, config.client.pin)
    where = "not pinned" if pinned[0] is None else f"pinned to {', '.join(map(str, pinned))}"
    text = f"{len(allowed)} of {os.cpu_count()}, " + ("no quota" if quota is None else f"quota {quota:.3g}")
    text += f"; {count} worker{'s' if count > 1 else ''} {where}"
    data = {"affinity": allowed, "quota": quota, "pinned": pinned}
    if usable < 2:
        cure = "give llmgen two cores or more: a worker wants one to itself, the controller works beside it"
        return warn(GROUP, "cores", text, cure, **data)
    if quota is not None and quota < len(allowed):
        cure = "a quota stops all threads when it is used up: let it be as large as the cores, or use a cpuset instead"
        return warn(GROUP, "cores", text, cure, **data)
    if count > usable - 1:
        cure = f"use --workers {usable - 1} at most: the controller needs a core, too"
        return warn(GROUP, "cores", text, cure, **data)
    return ok(GROUP, "cores", text, **data)


def frequency() -> Check:
    """The governor of the cores that we may use; a virtual machine shows none."""
    governors = set()
    for core in machine.affinity():
        try:
            path = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor")
            governors.add(path.read_text().strip())
        except OSError:
            continue
    if not governors:
        return ok(GROUP, "frequency", "not told (usual in a virtual machine)", governors=[])
    text = f"governor {', '.join(sorted(governors))}"
    if governors == {"performance"}:
        return ok(GROUP, "frequency", text, governors=sorted(governors))
    cure = "a core that slows down while it waits sends and reads late: cpupower frequency-set -g performance"
    return warn(GROUP, "frequency", text, cure, governors=sorted(governors))


def clock() -> Check:
    source = machine.clock_source()
    cost = float("inf")
    for _ in range(5):  # the best of five: an interrupt in between is none of the clock's doing
        start = time.perf_counter_ns()
        for _ in range(CLOCK_READS // 5):
            time.monotonic_ns()
        cost = min(cost, (time.perf_counter_ns() - start) / (CLOCK_READS // 5))
    text = f"{source or 'source not told'}, {cost:.0f} ns a read"
    if cost > SLOW_CLOCK_NS:
        cure = "reading this clock is a system call; choose tsc (kernel parameter clocksource=tsc) or another machine"
        return warn(GROUP, "clock", text, cure, source=source, read_ns=cost)
    return ok(GROUP, "clock", text, source=source, read_ns=cost)


def stamps(config: RunConfig) -> Check:
    """Whether the kernel stamps arriving bytes, tried over loopback, and how long before we read them."""
    if config.client.stamps == "user":
        return ok(GROUP, "stamps", "user space, as asked for")
    lags = kernel_stamp_lags()
    if not lags:
        cure = "tokens will be stamped when we read them; sandboxed kernels (gVisor) have no SO_TIMESTAMPNS"
        return warn(GROUP, "stamps", "the kernel gives none (SO_TIMESTAMPNS)", cure)
    median = float(np.median(lags)) / 1000
    return ok(GROUP, "stamps", f"kernel, {median:.0f} us before the read (loopback)", kernel=True, lag_us=median)


def kernel_stamp_lags() -> list[int]:
    """ns from the kernel's stamp to ours for some bytes over loopback; empty if there is no stamp."""
    lags: list[int] = []
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.settimeout(STAMP_WAIT_S)
            client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            client.connect(listener.getsockname())
            peer, _ = listener.accept()
            with peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for _ in range(PROBES):
                    peer.send(b".")
                    _, control, _, _ = client.recvmsg(1, socket.CMSG_SPACE(16))
                    now = time.time_ns()
                    for level, kind, data in control:
                        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                            seconds, nanoseconds = struct.unpack("@ll", data[: struct.calcsize("@ll")])
                            lags.append(now - seconds * 1_000_000_000 - nanoseconds)
    except OSError:
        return []
    return lags


def timer(limits: Thresholds) -> Check:
    """Lateness of waits of 1 ms (clock_nanosleep to an absolute time, as time.sleep does it)."""
    late = np.empty(WAITS)
    for number in range(WAITS):
        due = time.monotonic_ns() + WAIT_NS
        time.sleep(WAIT_NS / 1e9)
        late[number] = time.monotonic_ns() - due
    p50, p99 = (float(value) / 1000 for value in np.percentile(late, (50, 99)))
    text = f"late by {p50:.0f} us (p50), {p99:.0f} us (p99)"
    data: dict[str, Any] = {"p50_us": p50, "p99_us": p99}
    loop = machine.timer_loop()
    if loop is not None:
        text += f"; selfbench's C loop {loop['p50_us']:.0f} and {loop['p99_us']:.0f}"
        data["selfbench"] = loop
    if p99 > limits.suspect_lag_ms * 1000:
        cure = "requests would go out as late: stop other load here, take a less shared machine, or try --spin 50us"
        return warn(GROUP, "timer", text, cure, **data)
    return ok(GROUP, "timer", text, **data)


def steal(before: tuple[int, int], after: tuple[int, int], limits: Thresholds) -> Check:
    """Processor time that the hypervisor gave to others, and how busy this machine is with other work."""
    passed = after[1] - before[1]
    percent = round(100 * (after[0] - before[0]) / passed, 1) if passed > 0 else None
    load = os.getloadavg()[0]
    text = ("steal not told" if percent is None else f"steal {percent:.1f} %") + f", load average {load:.1f}"
    data = {"steal_pct": percent, "load_average": load}
    if percent is not None and percent > limits.suspect_steal_pct:
        return warn(GROUP, "neighbours", text, "the hypervisor gives our time to others: take dedicated cores", **data)
    if load > machine.usable_cores() - 0.5:
        cure = "other programs keep the cores busy; stop them, or give llmgen cores of its own (taskset -c)"
        return warn(GROUP, "neighbours", text, cure, **data)
    return ok(GROUP, "neighbours", text, **data)


def proxies() -> list[Check]:
    names = [name for name in PROXY_VARIABLES if os.environ.get(name)]
    if not names:
        return []
    return [ok(GROUP, "proxy", f"{', '.join(names)} ignored: load goes straight to the target", variables=names)]
