from typing import Any, final

from llmgen.recorder import Recorder
from llmgen.wire.scanner import Rules

@final
class Engine:
    """Drives the load of one worker.

    setup: a worker.Setup. rules: one compiled scanner.Rules a head of the plan.
    Raises OSError when the run directory cannot be written or the plan cannot be read.
    """

    @property
    def recorder(self) -> Recorder: ...
    @property
    def samples(self) -> list[tuple[int, int, int, int, bytes]]:
        """(status, http_status, index, target, text) of failed requests; the caller empties it."""

    @property
    def bodies(self) -> list[tuple[int, int, bytes]]:
        """(index, http_status, raw body) of answers, with keep_bodies; the caller empties it."""

    @property
    def tls_handshakes(self) -> tuple[int, int]:
        """(completed, resumed by a ticket)."""

    @property
    def clock_steps(self) -> int:
        """Times that CLOCK_REALTIME was seen to jump."""

    @property
    def flow_blocked_ns(self) -> int:
        """HTTP/2: time that a window of ours kept the server from sending; 0 in a valid run."""

    def __new__(cls, setup: Any, rules: list[Rules]) -> Engine: ...
    def state(self, value: int) -> None:
        """Publishes a columns.WorkerState."""

    def fileno(self) -> int:
        """The epoll set: readable when on_ready has something to do."""

    def preconnect(self, count: int) -> None:
        """Opens `count` connections to every target."""

    def connecting(self) -> int:
        """Connections that are being opened."""

    def start(self, start_ns: int, offer_for_ns: int, window_start_ns: int, window_end_ns: int) -> None:
        """The common start, monotonic ns; the others count from it (offer_for_ns 0: as long as the plan says)."""

    def on_ready(self) -> None:
        """One batch: reads, sends, what is due."""

    def tick(self) -> bool:
        """Timeouts, drain, counters. True as long as the run goes on. OSError: the plan cannot be read."""

    def drain(self, until_ns: int) -> None:
        """Offers nothing more; what is in flight at `until_ns` (monotonic) is cancelled by the next tick."""

    def cancel(self) -> None:
        """Offers nothing more and cancels what is in flight."""

    def finish(self) -> None:
        """Completes and closes the records. The engine cannot be used afterwards."""

    def release(self) -> None:
        """Closes every descriptor and the record files."""
