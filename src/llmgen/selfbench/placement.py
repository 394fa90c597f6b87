"""Who runs on which core: the worker on the last, as `run` pins it, the server on others, as far as there are any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from llmgen import machine
from llmgen.selfbench.figures import Placement

SERVER_CORES: Final = 4  # one worker cannot keep more of the server's threads busy
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
