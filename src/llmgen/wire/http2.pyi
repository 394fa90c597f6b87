"""HTTP/2 (RFC 9113) without a socket; the events are described in the module's docstring."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, final

from typing_extensions import disjoint_base

_Text = str | bytes
_Fields = Sequence[tuple[_Text, _Text]]
_Event = tuple[Any, ...]

class Error(Exception):
    """The connection is lost, or what was asked is not possible.

    `code`: the error code of our GOAWAY (RFC 9113 7). `events`: those of the bytes before the error.
    """

    code: int
    events: list[_Event]
    def __init__(self, code: int, reason: str, events: Iterable[_Event] = ()) -> None: ...

def header_block(headers: _Fields) -> bytes:
    """An HPACK block that needs no dynamic table: right on every connection, as often as wanted (RFC 7541 6.2)."""

@disjoint_base
class Connection:
    """What Client and Server have in common."""

    def open(self) -> bytes:
        """The first bytes to send: the client's preface, SETTINGS, and the WINDOW_UPDATE of the connection."""

    def take(self, most: int = -1) -> bytes:
        """All bytes that are to be sent now, or the first `most` of them; they count as written."""

    def feed(self, data: bytes | bytearray | memoryview, t_ns: int = 0) -> list[_Event]:
        """Takes received bytes, cut in any way; returns their events. `t_ns`: when, for `blocked_ns`. Raises Error."""

    def eof(self) -> list[_Event]:
        """The peer closed: [("eof", sid)] for what was open. Raises Error if the connection had never become ready."""

    def reset(self, sid: int, code: int = 8) -> None:
        """RST_STREAM; 8 is CANCEL. No more events of this stream."""

    def settings(self, values: Mapping[int, int]) -> None:
        """Sends SETTINGS {id: value}; ours change when they are acknowledged."""

    def window_update(self, sid: int, increment: int) -> None:
        """WINDOW_UPDATE; stream 0 is the connection."""

    def ping(self, payload: bytes = ...) -> None:
        """PING with 8 bytes."""

    def goaway(self, last_sid: int, code: int = 0) -> None:
        """GOAWAY."""

    def raw(self, data: bytes) -> None:
        """Sends bytes as they are."""

    def unsent(self, sid: int) -> int:
        """Bytes of the stream's content that wait for the peer's windows."""

    @property
    def reason(self) -> str:
        """Why the connection is lost, or ""."""

    @property
    def stream_reason(self) -> str:
        """Why the last stream that we reset broke the rules, or ""."""

    @property
    def ready(self) -> bool:
        """The peer's SETTINGS were received."""

    @property
    def open_streams(self) -> int:
        """Streams that are not closed."""

    @property
    def blocked_ns(self) -> int:
        """Time that a window of ours was used up, by the `t_ns` of feed."""

@final
class Client(Connection):
    """The client's side. Options, where None is the default of a run: what we announce (RFC 9113 6.5.2), the
    connection's window, the most streams opened, and top_up (False: windows are returned by window_update only, not at
    half)."""

    def __new__(
        cls,
        *,
        initial_window_size: int | None = None,
        connection_window_size: int | None = None,
        max_frame_size: int | None = None,
        max_header_list_size: int | None = None,
        header_table_size: int | None = None,
        max_streams: int | None = None,
        top_up: bool = True,
    ) -> Self: ...
    def request(self, headers: _Fields, body: bytes | bytearray | memoryview | None = None) -> int:
        """Queues a request, pseudo-headers first in `headers`; the stream's id. Raises Error if none can be opened."""

    @property
    def capacity(self) -> int:
        """Streams that may be opened now: 0 before the peer's SETTINGS, after GOAWAY, and when lost."""

    @property
    def next_sid(self) -> int:
        """The id of the next request; may be set to a higher odd number."""

    @next_sid.setter
    def next_sid(self, sid: int) -> None: ...

@final
class Server(Connection):
    """The other side, for tests. Options as of Client; `max_streams` is announced."""

    def __new__(
        cls,
        *,
        initial_window_size: int | None = None,
        connection_window_size: int | None = None,
        max_frame_size: int | None = None,
        max_header_list_size: int | None = None,
        header_table_size: int | None = None,
        max_streams: int | None = None,
        top_up: bool = True,
    ) -> Self: ...
    def respond(
        self, sid: int, headers: _Fields, body: bytes | bytearray | memoryview | None = None, end: bool = True
    ) -> None:
        """A header section (also an interim one), and content if there is any."""

    def send(self, sid: int, data: bytes | bytearray | memoryview, end: bool = False) -> None:
        """Content: at once as far as the peer's windows permit, the rest when they open."""

    def trailers(self, sid: int, headers: _Fields) -> None:
        """Fields behind the content; they end the answer."""
