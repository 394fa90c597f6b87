"""What plans are measured against: numpy writing the same bytes once.

`same_content` is the yardstick: the plan's own content, read back into plain columns (not timed), is put field by field
into arrays of the plan's types, and these are written to a file: the least that any numpy program does that writes
this plan. `same_size` fills a buffer that stays in the cache and writes as many bytes: less than any plan can cost,
told beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmgen.plan import PLAN_DTYPE, SPAN_DTYPE

PASS_BYTES = 4 << 20  # a chunk of `same_size`: about what the plan writes at a time


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def same_content(plan: Path, folder: Path) -> tuple[float, float]:
    """Seconds of the clock and of CPU of writing the content of this plan once more."""
    wall = cpu = 0.0
    kinds = {".rows": PLAN_DTYPE, ".spans": SPAN_DTYPE}
    with (folder / "content").open("wb") as file:
        for path in sorted(plan.iterdir()):
            whole = np.fromfile(path, kinds.get(path.suffix, np.dtype("u1")))
            columns = {name: whole[name].copy() for name in whole.dtype.names} if whole.dtype.names else {"": whole}
            one = timed(lambda whole=whole, columns=columns: file.write(_filled(columns, whole.dtype).data))
            wall, cpu = wall + one[0], cpu + one[1]
    return wall, cpu


def _filled(columns: dict[str, np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    out = np.empty(len(next(iter(columns.values()))), dtype)
    for name, column in columns.items():
        if name:
            out[name] = column
        else:
            out[:] = column
    return out


def same_size(size: int, folder: Path) -> tuple[float, float]:
    """Seconds of the clock and of CPU of writing `size` bytes."""

    def write() -> None:
        chunk = np.empty(PASS_BYTES, np.uint8)
        with (folder / "size").open("wb") as file:
            for number in range(-(-size // PASS_BYTES)):
                chunk[:] = number & 0xFF
                file.write(chunk[: size - number * PASS_BYTES].data)

    return timed(write)


def peak_mb() -> float:
    """Of this process's own memory; ru_maxrss would be the parent's before the exec."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
