"""Processes: their CPU time and children; a command with all of them, bounded, and what they used over time."""

from __future__ import annotations

import bisect
import contextlib
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

EVERY_S = 0.2
MEMORY_EVERY = 5  # samples: the kernel walks all pages for it
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, from the scheduler's own ns counter."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


Process = tuple[int, int]  # id and start: ids are used again


def tree(root: int) -> dict[Process, float]:
    """CPU seconds so far of `root` and all below it."""
    parents: dict[int, int] = {}
    found: dict[int, tuple[Process, float]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            pid = int(entry.name)
            parents[pid] = int(fields[1])
            found[pid] = (pid, int(fields[19])), (int(fields[11]) + int(fields[12])) * TICK_S
    members = {root}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return dict(found[pid] for pid in members if pid in found)


def end(processes: Iterable[Process]) -> None:
    """Kills those that are still there."""
    for pid, start in processes:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[19]) == start and fields[0] != "Z":
                os.kill(pid, signal.SIGKILL)


def memory_mb(processes: Iterable[Process]) -> float:
    """Proportional set size of all: shared pages count once."""
    total = 0
    for pid, _ in processes:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


@dataclass
class Finished:
    code: int | None  # None: it was killed because its time was over
    output: str
    errors: str
    cpu_s: float  # of the whole command
    peak_mb: float
    times: list[int] = field(default_factory=list)  # ns, CLOCK_MONOTONIC
    cpu: list[float] = field(default_factory=list)  # seconds so far, at those times

    def cpu_between(self, start_ns: int, end_ns: int) -> float:
        """CPU seconds between two times, to about a sample's length."""
        return self.at(end_ns) - self.at(start_ns)

    def at(self, t: int) -> float:
        i = bisect.bisect_left(self.times, t)
        if i == 0:
            return self.cpu[0] if self.cpu else 0.0
        if i == len(self.times):
            return self.cpu[-1]
        share = (t - self.times[i - 1]) / (self.times[i] - self.times[i - 1])
        return self.cpu[i - 1] + share * (self.cpu[i] - self.cpu[i - 1])


def watched(
    command: list[str], cores: list[int], environment: dict[str, str], folder: Path, limit_s: float
) -> Finished:
    """Runs `command` on `cores` and watches its processes; none is left when it has ended, or after limit_s."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = Finished(None, "", "", 0.0, 0.0)
    with open(folder / "stdout", "w+") as out, open(folder / "stderr", "w+") as err:
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
        process = subprocess.Popen(pinned, stdout=out, stderr=err, env=environment, cwd=folder, process_group=0)
        seen: dict[Process, float] = {}
        over = threading.Event()

        def sample() -> None:
            count = 0
            while not over.wait(EVERY_S):
                now = tree(process.pid)
                seen.update(now)
                done.times.append(time.monotonic_ns())
                done.cpu.append(sum(seen.values()))
                if count % MEMORY_EVERY == 0:
                    done.peak_mb = max(done.peak_mb, memory_mb(now))
                count += 1

        watcher = threading.Thread(target=sample)
        watcher.start()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                done.code = process.wait(limit_s)
        finally:
            over.set()
            watcher.join()
            end({**seen, **tree(process.pid)})
            process.wait()
        out.seek(0)
        err.seek(0)
        done.output, done.errors = out.read(), err.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    waited = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    done.cpu_s = max(waited, sum(seen.values()))
    return done
