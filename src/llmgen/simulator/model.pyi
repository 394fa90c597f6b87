from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Model:
    """An engine; see model.pyx."""

    def __init__(self, settings: Mapping[str, Any], noise: NDArray[np.float64]) -> None: ...
    def snapshot(self, now: int) -> dict[str, Any]: ...
    def run(
        self,
        arrivals: NDArray[np.int64],
        inputs: NDArray[np.int64],
        outputs: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        offsets: NDArray[np.int64],
        start: int,
        scheduled: NDArray[np.int64],
        first_token: NDArray[np.int64],
        last_token: NDArray[np.int64],
        admission: NDArray[np.uint8],
        replica: NDArray[np.uint32],
        cached: NDArray[np.uint32],
        preemptions: NDArray[np.uint32],
        want_tokens: bool,
        alike: bool,
    ) -> tuple[bytes, bytes, bytes]: ...
