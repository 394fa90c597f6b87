from typing import Self, final

@final
class Twin:
    """One HTTP/2 connection on h2, for `--http2-engine h2`; its calls are C functions."""

    def __new__(cls) -> Self: ...
    def cancel(self, stream: int) -> None:
        """RST_STREAM; the sink is not called any more for this stream."""
