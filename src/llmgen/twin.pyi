from typing import Self, final

@final
class Twin:
    """One HTTP/2 connection on h2, for `--http2-engine h2`."""

    def __new__(cls) -> Self: ...
    @property
    def ready(self) -> bool: ...
    @property
    def leaving(self) -> bool:
        """GOAWAY was received."""

    @property
    def reason(self) -> str: ...
    def capacity(self) -> int:
        """Streams that may be opened now."""

    def cancel(self, stream: int) -> None:
        """RST_STREAM; the sink is not called any more for this stream."""
