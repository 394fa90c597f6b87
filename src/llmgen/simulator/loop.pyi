import numpy as np
from numpy.typing import NDArray

class Loop:
    """One sending thread; see loop.pyx. `run` blocks without the GIL until `stop` is called from another thread."""

    def __init__(
        self,
        listener: int,
        *,
        ttft: NDArray[np.int64],
        itl: NDArray[np.int64],
        output: NDArray[np.int64] | None,
        per_event: NDArray[np.int64],
        step_ns: int,
        seed: int,
        rules: list[tuple[int, int, int]],
        refuse_below: int,
        close_idle_ns: int,
        slots: int,
        models: list[bytes],
        any_model: bool,
        truth_fd: int,
        number_base: int,
    ) -> None: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
    @property
    def counters(self) -> dict[str, int]: ...
