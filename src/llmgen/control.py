"""The mapped file through which controller and workers see each other during a run.

One block of the controller's (CONTROL_DTYPE, padded to 4096 bytes), then one block of counters a worker
(columns.COUNTERS_DTYPE). Every field has one writer, except `claimed`, which is atomic.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

import numpy as np

from llmgen.columns import COUNTERS_DTYPE

CONTROL_BYTES: Final = 4096
CONTROL_DTYPE: Final = np.dtype(
    [
        ("start", "<i8"),  # common start, monotonic ns; 0: not yet
        ("plan_segments", "<i8"),  # segments complete on disk
        ("plan_final", "<i8"),  # 1: no further segment will come
        ("claimed", "<i8"),  # closed loop: number of the next unclaimed row
        ("stop", "<i8"),  # 1: offer nothing more
    ]
)


class ControlBlock:
    """The controller's view: `control` is writable, `counters[i]` is worker i's."""

    def __init__(self, path: Path, workers: int) -> None:
        size = CONTROL_BYTES + workers * COUNTERS_DTYPE.itemsize
        with path.open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self.control = np.frombuffer(self._map, CONTROL_DTYPE, 1)
        self.counters = np.frombuffer(self._map, COUNTERS_DTYPE, workers, CONTROL_BYTES)
