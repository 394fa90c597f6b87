"""The reference twin of `wire.http2`: the same operations and events on the independent `h2` and `hpack`.

`--http2-engine h2` runs a load through it, so that anyone can check our codec against one that we did not write; the
differential tests use it as their oracle. It is slow (some hundred µs a request) and meant to be.

Frames are cut out of the stream of bytes here and given to h2 one by one, because four of its habits (4.4.1) would
change what is measured:

- on GOAWAY it gives up all streams, also those that the server is going to finish: GOAWAY is taken here;
- it takes any first frame, and waits for ever on an HTTP/1.1 answer: what comes first is checked here;
- it reports compression errors as PROTOCOL_ERROR: the code is corrected, in the Error and in its GOAWAY.

Two differences to `wire.http2` remain: a malformed answer costs the connection here and only its stream there, and DATA
is reported when its frame is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hpack.exceptions import HPACKError

from llmgen.wire.http2 import Error

Event = tuple[Any, ...]

FRAME_HEADER_SIZE = 9
SETTINGS, GOAWAY = 4, 7
WINDOW_MAX = 2**31 - 1
WINDOW_DEFAULT = 65535
STREAM_ID_MAX = 2**31 - 1
MAX_FRAME_SIZE = 16384
MAX_HEADER_LIST_SIZE = 65536
PROTOCOL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 1, 6, 7, 8, 9


class H2Connection:
    """A client's connection. `users` maps the ids of open streams to what submit was given."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding=None, normalize_inbound_headers=False)
        self._h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: WINDOW_MAX,
                codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
            },
        )
        self._h2.decoder.max_header_list_size = MAX_HEADER_LIST_SIZE
        self.users: dict[int, Any] = {}
        self.ready = False
        self.reason = ""
        self.sent: list[int] = []  # streams whose requests take() has given out to the last byte; the reader clears it
        self._sent_with_next_take: list[int] = []
        self._received = bytearray()
        self._out = bytearray()  # taken out of h2 to correct it
        self._bodies: deque[tuple[int, memoryview]] = deque()  # in order of submission
        self._goaway_last: int | None = None
        self._failed: Error | None = None

    def open(self) -> bytes:
        """The first bytes to send: preface, SETTINGS, WINDOW_UPDATE of the connection."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_MAX - WINDOW_DEFAULT)
        return self.take()

    def submit(self, user: Any, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> int:
        """Opens a stream; its id. Error if none may be opened now."""
        if self._failed is not None or self._goaway_last is not None:
            raise Error(0, "the connection is going away")
        try:
            sid = int(self._h2.get_next_available_stream_id())
            self._h2.send_headers(sid, headers, end_stream=not body)
        except h2.exceptions.NoAvailableStreamIDError:
            raise Error(0, "no stream ids are left") from None
        except h2.exceptions.TooManyStreamsError:
            raise Error(REFUSED_STREAM, "no more streams are permitted now") from None
        self.users[sid] = user
        if body:
            self._bodies.append((sid, memoryview(body)))
            self._send_bodies()
        else:
            self._sent_with_next_take.append(sid)
        return sid

    def capacity(self) -> int:
        """Streams that may be opened now: 0 before the peer's SETTINGS, after GOAWAY, and when lost."""
        if not self.ready or self._failed is not None or self._goaway_last is not None:
            return 0
        permitted = min(self._h2.remote_settings.max_concurrent_streams, STREAM_ID_MAX)
        return max(0, int(permitted) - int(self._h2.open_outbound_streams))

    def reset(self, sid: int, code: int = CANCEL) -> None:
        """Gives a stream up; no more events of it."""
        if sid not in self.users:
            raise Error(5, "the stream is closed")
        del self.users[sid]
        self._forget_body(sid)
        self._h2.reset_stream(sid, code)

    def take(self) -> bytes:
        """All bytes that are to be sent now."""
        self.sent += self._sent_with_next_take
        self._sent_with_next_take.clear()
        data = bytes(self._out) + self._h2.data_to_send()
        self._out.clear()
        return data

    def feed(self, data: bytes) -> list[Event]:
        """Takes received bytes; returns events as `http2.Client.feed` does. Raises http2.Error."""
        if self._failed is not None:
            raise Error(self._failed.code, self.reason)
        events: list[Event] = []
        self._received += data
        try:
            for frame in self._frames():
                self._take_frame(frame, events)
        except h2.exceptions.ProtocolError as error:
            self._fail(*self._code_of(error))
        except Error as error:
            self._fail(error.code, str(error))
        if self._failed is not None:
            self._failed.events = merged(events)
            raise self._failed
        self._send_bodies()
        return merged(events)

    def eof(self) -> list[Event]:
        """The peer closed: [("eof", sid)] for what was open. Raises Error if the connection had never become ready."""
        ended = [("eof", sid) for sid in self.users]
        self.users.clear()
        self._bodies.clear()
        if not self.ready:
            self._fail(0, "the peer closed the connection before its SETTINGS")
            raise Error(0, self.reason)
        return ended

    def _frames(self) -> Iterable[bytes]:
        """Cuts whole frames out of what was received, the first of which must be SETTINGS."""
        if not self.ready and self._received.startswith(b"HTTP/"):
            raise Error(PROTOCOL_ERROR, "the peer answered HTTP/1.1")
        while len(self._received) >= FRAME_HEADER_SIZE:
            size = FRAME_HEADER_SIZE + int.from_bytes(self._received[:3], "big")
            if not self.ready and (self._received[3] != SETTINGS or self._received[4] & 1):
                raise Error(PROTOCOL_ERROR, "the first frame is not SETTINGS: the peer may not speak HTTP/2")
            if size > FRAME_HEADER_SIZE + MAX_FRAME_SIZE:
                raise Error(FRAME_SIZE_ERROR, "a frame larger than our SETTINGS_MAX_FRAME_SIZE")
            if len(self._received) < size:
                return
            frame = bytes(self._received[:size])
            del self._received[:size]
            yield frame

    def _take_frame(self, frame: bytes, events: list[Event]) -> None:
        if frame[3] == GOAWAY:
            self._take_goaway(frame, events)
            return
        for event in self._h2.receive_data(frame):
            self._translate(event, events)

    def _take_goaway(self, frame: bytes, events: list[Event]) -> None:
        if int.from_bytes(frame[5:9], "big") & STREAM_ID_MAX:
            raise Error(PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(frame) < FRAME_HEADER_SIZE + 8:
            raise Error(FRAME_SIZE_ERROR, "GOAWAY shorter than 8")
        last = int.from_bytes(frame[9:13], "big") & STREAM_ID_MAX
        if self._goaway_last is not None and last > self._goaway_last:
            raise Error(PROTOCOL_ERROR, "GOAWAY with a higher last stream than before")
        self._goaway_last = last
        events.append(("goaway", last, int.from_bytes(frame[13:17], "big")))
        for sid in [sid for sid in self.users if sid > last]:
            del self.users[sid]
            self._forget_body(sid)
            events.append(("reset", sid, REFUSED_STREAM))

    def _translate(self, event: h2.events.Event, events: list[Event]) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.ready = True
            events.append(("settings", {int(s.setting): s.new_value for s in event.changed_settings.values()}))
        elif isinstance(event, h2.events.PingReceived):
            events.append(("ping",))
        elif isinstance(event, h2.events.DataReceived):
            self._take_data(event, events)
        elif isinstance(event, h2.events.ResponseReceived):
            if event.stream_id in self.users:
                ended = event.stream_ended is not None
                events.append(("headers", event.stream_id, fields_of(event.headers), ended))
        elif isinstance(event, h2.events.TrailersReceived):
            if event.stream_id in self.users:
                events.append(("trailers", event.stream_id, fields_of(event.headers)))
        elif isinstance(event, h2.events.StreamReset):
            if event.stream_id in self.users:
                del self.users[event.stream_id]
                self._forget_body(event.stream_id)
                events.append(("reset", event.stream_id, int(event.error_code)))
        elif isinstance(event, h2.events.StreamEnded):
            self._stream_ended(event.stream_id)

    def _take_data(self, event: h2.events.DataReceived, events: list[Event]) -> None:
        if event.flow_controlled_length:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        ended = event.stream_ended is not None
        if event.stream_id in self.users and (event.data or ended):
            events.append(("data", event.stream_id, bytes(event.data), ended))

    def _stream_ended(self, sid: int) -> None:
        """Answered to the end. What is left of the request is of no use to anybody (RFC 9113 8.1)."""
        self.users.pop(sid, None)
        if self._forget_body(sid):
            self._h2.reset_stream(sid, CANCEL)

    def _forget_body(self, sid: int) -> bool:
        before = len(self._bodies)
        self._bodies = deque(entry for entry in self._bodies if entry[0] != sid)
        return len(self._bodies) != before

    def _send_bodies(self) -> None:
        """As much of the bodies as the peer's windows permit, in order of submission."""
        waiting: deque[tuple[int, memoryview]] = deque()
        while self._bodies:
            sid, body = self._bodies.popleft()
            while body:
                size = min(len(body), self._h2.local_flow_control_window(sid), self._h2.max_outbound_frame_size)
                if size <= 0:
                    break
                self._h2.send_data(sid, bytes(body[:size]), end_stream=size == len(body))
                body = body[size:]
            if body:
                waiting.append((sid, body))
            else:
                self._sent_with_next_take.append(sid)
        self._bodies = waiting

    def _code_of(self, error: h2.exceptions.ProtocolError) -> tuple[int, str]:
        """The code that RFC 9113 asks for, and the text; h2's GOAWAY, already queued, gets that code too."""
        code = int(error.error_code)
        cause = error.__cause__ or error.__context__
        if isinstance(cause, HPACKError) and not isinstance(error, h2.exceptions.DenialOfServiceError):
            code = COMPRESSION_ERROR
            queued = self._h2.data_to_send()
            self._out += queued[:-4] + code.to_bytes(4, "big")
        return code, str(error)

    def _fail(self, code: int, reason: str) -> None:
        self._failed = Error(code, reason)
        self.reason = reason
        self.users.clear()
        self._bodies.clear()
        if self._h2.state_machine.state is not h2.connection.ConnectionState.CLOSED:
            self._h2.close_connection(error_code=code)


def fields_of(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Plain pairs of h2's header tuples."""
    return [(bytes(name), bytes(value)) for name, value in headers]


def merged(events: list[Event]) -> list[Event]:
    """Adjacent data of one stream as one event: how the bytes were framed is not told."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else ()
        if event[0] == "data" and last and last[0] == "data" and last[1] == event[1] and not last[3]:
            result[-1] = ("data", event[1], last[2] + event[2], event[3])
        else:
            result.append(event)
    return result
