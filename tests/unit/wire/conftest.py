"""The other end of an HTTP/2 connection, made of `hpack` and bytes: nothing of what is tested."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import hpack
import pytest

from llmgen.wire import http2

Fields = list[tuple[str, str]]


class Frame(NamedTuple):
    type: int
    flags: int
    sid: int
    payload: bytes

    @property
    def code(self) -> int:
        """Error code of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[-4:] if self.type == Peer.RST_STREAM else self.payload[4:8], "big")

    @property
    def number(self) -> int:
        return int.from_bytes(self.payload[:4], "big")


class Peer:
    """Builds what a peer sends, with the HPACK state of its direction, and judges what it is sent."""

    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
    END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 1, 1, 4, 8, 32
    OK: ClassVar[Fields] = [(":status", "200")]
    GET: ClassVar[Fields] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "host")]
    POST: ClassVar[Fields] = [(":method", "POST"), *GET[1:]]

    @staticmethod
    def frame(type: int, flags: int = 0, sid: int = 0, payload: bytes = b"") -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([type, flags]) + sid.to_bytes(4, "big") + payload

    @staticmethod
    def frames(data: bytes) -> list[Frame]:
        found = []
        while data:
            size = int.from_bytes(data[:3], "big")
            assert len(data) >= 9 + size, "an unfinished frame was sent"
            found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
            data = data[9 + size :]
        return found

    def __init__(self) -> None:
        self.encoder = hpack.Encoder()

    def block(self, fields: Fields) -> bytes:
        return self.encoder.encode(fields)

    def settings(self, values: dict[int, int] | None = None) -> bytes:
        entries = (values or {}).items()
        return self.frame(
            self.SETTINGS, 0, 0, b"".join(k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in entries)
        )

    def headers(self, sid: int, fields: Fields = OK, end: bool = False) -> bytes:
        return self.frame(self.HEADERS, self.END_HEADERS | (self.END_STREAM if end else 0), sid, self.block(fields))

    def data(self, sid: int, content: bytes = b"", end: bool = False, pad: int | None = None) -> bytes:
        if pad is not None:
            return self.frame(self.DATA, self.PADDED | int(end), sid, bytes([pad]) + content + bytes(pad))
        return self.frame(self.DATA, int(end), sid, content)

    def rst(self, sid: int, code: int = 8) -> bytes:
        return self.frame(self.RST_STREAM, 0, sid, code.to_bytes(4, "big"))

    def window(self, sid: int, by: int) -> bytes:
        return self.frame(self.WINDOW_UPDATE, 0, sid, by.to_bytes(4, "big"))

    def goaway(self, last: int, code: int = 0) -> bytes:
        return self.frame(self.GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))

    def ping(self, payload: bytes = b"12345678") -> bytes:
        return self.frame(self.PING, 0, 0, payload)

    @staticmethod
    def fails(connection: http2.Client | http2.Server, data: bytes) -> int:
        """Feeds bytes that must end the connection; the code, which must be that of the GOAWAY, too."""
        with pytest.raises(http2.Error) as caught:
            connection.feed(data)
        goaway = Peer.frames(connection.take())[-1]
        assert goaway.type == Peer.GOAWAY
        assert goaway.code == caught.value.code
        assert connection.reason
        with pytest.raises(http2.Error):
            connection.feed(b"")
        return caught.value.code

    @staticmethod
    def resets(connection: http2.Client | http2.Server, sid: int, data: bytes) -> int:
        """Feeds bytes that must end one stream and leave the connection alone; the code, also that of RST_STREAM."""
        events = connection.feed(data)
        assert events[-1][:2] == ("reset", sid)
        last = Peer.frames(connection.take())[-1]
        assert (last.type, last.sid, last.code) == (Peer.RST_STREAM, sid, events[-1][2])
        assert connection.stream_reason
        return events[-1][2]


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def client(peer: Peer) -> http2.Client:
    """Open, with the peer's SETTINGS; nothing is waiting to be sent."""
    client = http2.Client()
    client.open()
    client.feed(peer.settings())
    client.take()
    return client


@pytest.fixture
def server() -> http2.Server:
    """Open, with the client's preface and SETTINGS."""
    server = http2.Server()
    server.open()
    server.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Peer.frame(Peer.SETTINGS))
    server.take()
    return server
