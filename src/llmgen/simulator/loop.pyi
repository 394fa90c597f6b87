from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llmgen.simulator.model import Model
from llmgen.tls import Endpoint

class Loop:
    """One sending thread; see loop.pyx. `run` blocks without the GIL until `stop` is called from another thread."""

    def __init__(
        self,
        *,
        listener: int,
        inlet: int,
        outlets: list[int],
        step_start_ns: int,
        ttft: NDArray[np.int64],
        itl: NDArray[np.int64],
        output: NDArray[np.int64] | None,
        per_event: NDArray[np.int64],
        step_ns: int,
        seed: int,
        rules: list[tuple[int, int, int]],
        refuse_below: int,
        mute_below: int,
        close_idle_ns: int,
        slow_settings_ns: int,
        stream_limit: int,
        lowered_limit: int,
        window: int,
        slots: int,
        prefix_blocks: int,
        models: list[bytes],
        any_model: bool,
        http1: bool,
        http2: bool,
        tls: Endpoint | None,
        engine: Model | None,
        pages: Callable[[int], bytes] | None,
        refusal: int,
        truth_fd: int,
        number_base: int,
    ) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
    @property
    def counters(self) -> dict[str, int]: ...
