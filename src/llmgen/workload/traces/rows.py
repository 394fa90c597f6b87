"""What every trace reader yields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TraceBlock:
    """Consecutive rows of a trace in order of time; arrays (rows,)."""

    t_ns: NDArray[np.int64]  # after the first row of the trace; never descending, over all blocks
    input: NDArray[np.int64]  # tokens, >= 0
    output: NDArray[np.int64]
