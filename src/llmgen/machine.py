"""Facts about this machine that a run depends on: cores, quotas, limits, stolen time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import Any, Final

MOST_DESCRIPTORS: Final = 1 << 16  # that room is made for in advance: half a megabyte of the kernel's
SPARE_DESCRIPTORS: Final = 128  # files, pipes and libraries of a worker, besides its connections


def affinity() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def own_groups() -> list[Path]:
    """Folders of this process's control group and those above it (cgroup v2); each may set a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line[3:] for line in lines if line.startswith("0::")).strip("/")
    except (OSError, StopIteration):
        own = ""
    # a path that leads out of our namespace ("/../x") is not to be seen here
    folder = root / own if own and ".." not in own else root
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def quota_cores() -> float | None:
    """Cores that the control group allows, None if it sets no limit (cgroup v2 cpu.max, v1 cfs quota)."""
    limits = []
    for folder in own_groups():
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                limits.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue
    if limits:
        return min(limits)
    try:
        base = Path("/sys/fs/cgroup/cpu")
        quota_us = int((base / "cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((base / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def usable_cores() -> int:
    """Whole cores that may be used at the same time, at least one."""
    quota = quota_cores()
    cores = len(affinity())
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def carry_niceness() -> None:
    """Where the scheduler groups sessions (autogroup), niceness counts only within one: gives ours to our session."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if nice:
        with contextlib.suppress(OSError):  # no autogroups here, or no right to
            Path("/proc/self/autogroup").write_text(str(nice))


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open files to the hard one; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def make_room_for_descriptors(limit: int) -> None:
    """Grows the kernel's table of this process's descriptors before there are threads.

    Else it doubles as they come, and a process with threads waits for each doubling (synchronize_rcu): 8 to 17 ms.
    """
    with contextlib.suppress(OSError):
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, min(limit, MOST_DESCRIPTORS) - 1))


def port_range() -> tuple[int, int]:
    """First and last local port that connect may choose."""
    try:
        low, high = (int(n) for n in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return 32768, 60999  # the kernel's default
    return low, high


def ephemeral_ports() -> int:
    """Local ports for connections to one destination from one source address."""
    low, high = port_range()
    return high - low + 1


def cpu_times() -> tuple[int, int]:
    """(stolen, all) in ticks since boot, over all cores; (0, 0) where the kernel does not tell."""
    try:
        fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return 0, 0
    return (fields[7] if len(fields) > 7 else 0), sum(fields[:8])


def memory_of(pid: int) -> dict[str, float]:
    """Resident memory of a process in MB: all, peak, and its own (RssAnon); empty if it is gone."""
    names = {"VmRSS": "rss_mb", "VmHWM": "peak_rss_mb", "RssAnon": "user_rss_mb"}
    found: dict[str, float] = {}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in names:
                found[names[key]] = round(int(value.split()[0]) / 1024, 1)
    except (OSError, ValueError, IndexError):
        pass
    return found


def clock_source() -> str | None:
    try:
        return Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text().strip()
    except OSError:
        return None


def cache_folder() -> Path:
    """Where the last selfbench lies. RuntimeError: no home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmgen"


def timer_loop() -> dict[str, float] | None:
    """How late a plain C timer loop was here in the last `llmgen selfbench`: p50_us and p99_us; None: not known."""
    try:
        loop = json.loads((cache_folder() / "selfbench.json").read_bytes())["timer_loop"]
        found = {name: float(loop[name]) for name in ("p50_us", "p99_us")}
        return found if all(map(math.isfinite, found.values())) else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # RuntimeError: no home
        return None


def environment() -> dict[str, Any]:
    """What run.json says about the machine."""
    model = None
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": model,
        "cores": os.cpu_count(),
        "affinity": affinity(),
        "quota_cores": quota_cores(),
        "clock_source": clock_source(),
        "ephemeral_ports": ephemeral_ports(),
        "timer_loop": timer_loop(),
    }


def versions() -> dict[str, str]:
    """Versions of llmgen and of what its figures depend on."""
    found = {"python": platform.python_version()}
    for name in ("llmgen", "uvloop", "numpy", "msgspec", "h2"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
