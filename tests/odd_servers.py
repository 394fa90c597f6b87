"""Servers for tests that do what no well-behaved one does: raw sockets, a thread a connection, every wait bounded."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

WAIT = 20.0  # beyond this a thread gives up, whatever its peer does

Handler = Callable[["Peer"], None]


class Peer:
    """One accepted connection, seen by a handler."""

    def __init__(self, server: OddServer, connection: socket.socket, number: int) -> None:
        self.server = server
        self.socket = connection
        self.number = number  # of this connection at its server, from 0
        self._received = b""

    def request(self) -> Request | None:
        """The next HTTP/1.1 request, None at the end of the connection."""
        while b"\r\n\r\n" not in self._received:
            if not self._more():
                return None
        head, _, rest = self._received.partition(b"\r\n\r\n")
        found = re.search(rb"(?im)^content-length:\s*(\d+)", head)
        size = int(found[1]) if found else 0
        while len(rest) < size:
            if not self._more():
                return None
            rest = self._received.partition(b"\r\n\r\n")[2]
        self._received = rest[size:]
        request = Request(head, rest[:size], self.number)
        with self.server.lock:
            self.server.requests.append(request)
        return request

    def _more(self) -> bool:
        try:
            piece = self.socket.recv(65536)
        except OSError:
            return False
        self._received += piece
        return bool(piece)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def until_closed(self) -> None:
        """Reads until the other side goes, or the server is stopped."""
        while self._more():
            pass


class Request:
    """One request as it came."""

    def __init__(self, head: bytes, body: bytes, connection: int) -> None:
        self.head, self.body, self.connection = head, body, connection

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    def header(self, name: str) -> str | None:
        found = re.search(rb"(?im)^" + re.escape(name.encode()) + rb":[ \t]*(.*?)[ \t]*\r?$", self.head)
        return found[1].decode("latin-1") if found else None

    @property
    def index(self) -> int:
        """The last group of x-request-id."""
        name = self.header("x-request-id")
        assert name is not None
        return int(name.rpartition("-")[2])

    def json(self) -> Any:
        return json.loads(self.body)


class OddServer:
    """``with OddServer(handler) as server: … server.url``; `handler` has one connection and returns when it is done.

    GET requests for models are the handler's business, too: `answer_get` does for most.
    """

    def __init__(self, handler: Handler, port: int = 0, family: int = socket.AF_INET, path: str = "") -> None:
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.failures: list[BaseException] = []
        self.accepted = 0
        self.accepting = threading.Event()  # cleared: connections stay in the backlog
        self.accepting.set()
        self._handler = handler
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(path if family == socket.AF_UNIX else ("127.0.0.1", port))
        self._listener.listen(512)
        self.port = 0 if family == socket.AF_UNIX else self._listener.getsockname()[1]
        self.url = f"unix:{path}" if family == socket.AF_UNIX else f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            self.accepting.wait(WAIT)
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(WAIT)
            peer = Peer(self, connection, self.accepted)
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            with self.lock:
                self._open.append(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, peer: Peer) -> None:
        try:
            self._handler(peer)
        except OSError:
            pass  # the client went away, or the server was stopped
        except BaseException as error:
            self.failures.append(error)
        finally:
            with contextlib.suppress(OSError):
                peer.socket.close()

    def shrink_backlog(self) -> None:
        """Nothing is accepted from now on, and the queue takes one or two connections."""
        self.accepting.clear()
        self._listener.listen(0)

    def restore_backlog(self) -> None:
        self._listener.listen(512)
        self.accepting.set()

    def stop(self) -> None:
        """Closes the listener and every connection; raises what went wrong in a handler."""
        self.accepting.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(WAIT)
        with self.lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join(WAIT)
        if self.failures:
            raise self.failures[0]

    def __enter__(self) -> OddServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def posts(self) -> list[Request]:
        with self.lock:
            return [request for request in self.requests if request.method == "POST"]


# -- answers -----------------------------------------------------------------------------------------------------------

MODELS = json.dumps({"object": "list", "data": [{"id": "odd", "object": "model"}]}).encode()


def whole(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json", more: bytes = b"") -> bytes:
    """A response with Content-Length."""
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n" % (status, kind, len(body), more)
    return head + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END = b"0\r\n\r\n"


def token(text: str = "word ", **more: Any) -> bytes:
    """One SSE event with a token."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "choices": [choice], **more}).encode() + b"\n\n"


FINISH = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def stream(*events: bytes) -> bytes:
    """A whole streamed answer in one piece: each event a chunk, then the end."""
    return STREAM_HEAD + b"".join(chunk(event) for event in events) + END


GOOD = stream(token("a "), token("b "), token("c "), FINISH, USAGE, DONE)


def answer_get(peer: Peer, request: Request) -> bool:
    """Answers what preflight asks; False for any other request."""
    if request.method != "GET":
        return False
    peer.send(whole(MODELS))
    return True


def answering(answer: Callable[[Peer, Request], None]) -> Handler:
    """A handler that calls `answer` for each POST of a connection; it may close the socket."""

    def handle(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if not answer_get(peer, request):
                answer(peer, request)

    return handle


def always(data: bytes) -> Handler:
    return answering(lambda peer, _: peer.send(data))
