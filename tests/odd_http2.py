"""HTTP/2 for odd_servers, on the h2 package: handlers of connections that do what no well-behaved server does."""

from __future__ import annotations

from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from odd_servers import DONE, FINISH, MODELS, Handler, Peer, token

PIECES = (token("a "), token("b "), token("c "), FINISH, DONE)
EVENTS = len(PIECES) - 1  # [DONE] is none


class Http2Peer:
    """One connection's server; `answer` is called for every whole POST and sends what it likes."""

    def __init__(self, peer: Peer, answer: Callable[[Http2Peer, int], None]) -> None:
        self.peer, self.answer = peer, answer
        self.posts = 0
        self.over = False
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))

    def run(self, greeting: Callable[[Http2Peer], None] | None = None) -> None:
        """Serves until the client goes, or `over` is set."""
        self.h2.initiate_connection()
        if greeting is not None:
            greeting(self)
        self.flush()
        methods: dict[int, str] = {}
        while not self.over and (data := self.peer.socket.recv(65536)):
            try:
                events = self.h2.receive_data(data)
            except h2.exceptions.ProtocolError:
                self.flush()
                return  # after a GOAWAY h2 takes nothing more
            for event in events:
                if isinstance(event, h2.events.RequestReceived):
                    assert event.stream_id is not None
                    methods[event.stream_id] = dict(event.headers)[":method"]
                elif isinstance(event, h2.events.StreamEnded):
                    self.take(event.stream_id, methods.pop(event.stream_id))
            self.flush()

    def take(self, stream: int, method: str) -> None:
        if method == "GET":
            self.respond(stream, MODELS, kind="application/json")
            return
        self.posts += 1
        self.answer(self, stream)

    def respond(self, stream: int, *pieces: bytes, kind: str = "text/event-stream") -> None:
        """A whole answer, each piece a DATA frame."""
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", kind)])
        for piece in pieces:
            self.h2.send_data(stream, piece)
        self.h2.end_stream(stream)

    def flush(self) -> None:
        self.peer.send(self.h2.data_to_send())


def good(peer: Http2Peer, stream: int) -> None:
    """Three tokens and the end."""
    peer.respond(stream, *PIECES)


def http2(
    answer: Callable[[Http2Peer, int], None] = good, greeting: Callable[[Http2Peer], None] | None = None
) -> Handler:
    """A handler for OddServer."""
    return lambda peer: Http2Peer(peer, answer).run(greeting)
