"""Who runs on which core: the worker on the last, as `run` pins it, the server on others, as far as there are any."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from llmgen import machine
from llmgen.selfbench.figures import Placement

SERVER_CORES: Final = 4  # one worker cannot keep more of the server's threads busy
LOOK_S: Final = 0.05  # 5 ticks of the kernel's count
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def place() -> Placement:
    cores = machine.affinity()
    client, rest = cores[-1], cores[:-1]
    quota = machine.quota_cores()
    # a quota below two whole cores stops both in the same moments
    shared = not rest or (quota is not None and quota < 2)
    # the first core is left to the controller where the server does not need it
    server = (rest[1:] if len(rest) > 2 else rest)[-SERVER_CORES:] or [client]
    return Placement(
        client_core=client, server_cores=tuple(server), shared=shared, room=max(1, machine.usable_cores() - 1)
    )


def shared_note(placement: Placement) -> str | None:
    if not placement.shared:
        return None
    if placement.client_core in placement.server_cores:
        return f"client and server share core {placement.client_core}: every limit is a lower bound"
    return "client and server share a processor quota below two cores: every limit is a lower bound"


def thread_seconds(pid: int) -> dict[str, float]:
    """Processor time of each thread of a process so far; empty if it is gone."""
    found: dict[str, float] = {}
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            # the name, in brackets, may hold anything: fields are counted from behind it
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[task.name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    except (OSError, ValueError, IndexError):
        pass
    return found


def busiest(before: dict[str, float], after: dict[str, float]) -> float:
    """Seconds of the thread that was busiest between two looks."""
    return max((spent - before.get(thread, 0.0) for thread, spent in after.items()), default=0.0)


class CoreWatch:
    """How busy a core was with programs, whoever's, at any time while this is open."""

    def __init__(self, core: int) -> None:
        self._core = core
        self._seen: list[tuple[int, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="llmgen-core-watch", daemon=True)

    def __enter__(self) -> CoreWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def busy(self, start_ns: int, end_ns: int) -> float | None:
        """Share of the core between two moments of the monotonic clock; None if nobody looked."""
        inside = [look for look in self._seen if start_ns <= look[0] <= end_ns]
        if len(inside) < 2:
            return None
        (first, before), (last, after) = inside[0], inside[-1]
        return (after - before) * 1e9 / (last - first)

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            spent = program_seconds(self._core)
            if spent is not None:
                self._seen.append((time.monotonic_ns(), spent))


def program_seconds(core: int) -> float | None:
    """user, nice and system time of a core so far: what programs used, interrupts apart."""
    try:
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name == f"cpu{core}":
                return sum(map(int, fields[:3])) / TICKS_PER_S
    except (OSError, ValueError):
        pass
    return None
