"""The HTTP/2 codec against servers that were not written here: h2 over a socket pair, and nghttpd."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest

from llmgen.wire import http2, reference

Fields = list[tuple[bytes, bytes]]
POST: Fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/sse"), (b":authority", b"h")]
GET: Fields = [(b":method", b"GET"), *POST[1:]]
EVENTS = b"".join(b'data: {"n":%d}\n\n' % n for n in range(200))
CONCURRENT = 50
TIMEOUT = 60


class H2Server(threading.Thread):
    """Answers every request with EVENTS, one line a DATA frame, as the client's windows permit."""

    def __init__(self, sock: socket.socket, max_streams: int = 100) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values={3: max_streams})
        self.bodies: dict[int, int] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        self.h2.initiate_connection()
        try:
            self.sock.sendall(self.h2.data_to_send())
            while data := self.sock.recv(65536):
                for event in self.h2.receive_data(data):
                    self.take(event)
                self.sock.sendall(self.h2.data_to_send())
        except (h2.exceptions.H2Error, OSError) as error:
            self.error = error
        finally:
            self.sock.close()

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, 0) + len(event.data)
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            sid = event.stream_id
            self.h2.send_headers(sid, [(b":status", b"200"), (b"x-body", b"%d" % self.bodies.pop(sid, 0))])
            for part in EVENTS.splitlines(keepends=True):
                self.h2.send_data(sid, part, pad_length=sid % 5 or None)
            self.h2.send_headers(sid, [(b"x-end", b"yes")], end_stream=True)


Engine = Callable[[], tuple[Any, Callable[[Fields, bytes], int], Callable[[], int]]]


def native() -> tuple[Any, Callable[[Fields, bytes], int], Callable[[], int]]:
    client = http2.Client()
    return client, client.request, lambda: client.capacity


def twin() -> tuple[Any, Callable[[Fields, bytes], int], Callable[[], int]]:
    connection = reference.H2Connection()
    return connection, lambda fields, body: connection.submit(None, fields, body), connection.capacity


def drive(sock: socket.socket, engine: Engine, fields: Fields, body: bytes, requests: int) -> dict[int, bytes]:
    """Runs the requests, as many at once as are permitted; contents by stream."""
    connection, request, capacity = engine()
    sock.settimeout(TIMEOUT)
    sock.sendall(connection.open())
    contents: dict[int, bytes] = {}
    ended: set[int] = set()
    while len(ended) < requests:
        data = sock.recv(65536)
        assert data, "the server closed"
        for event in connection.feed(data):
            if event[0] == "headers":
                assert event[2][0] == (b":status", b"200")
                assert dict(event[2]).get(b"x-body", b"%d" % len(body)) == b"%d" % len(body)
            elif event[0] == "data":
                contents[event[1]] += event[2]
            elif event[0] == "reset":
                pytest.fail(f"reset: {event}")
            if event[0] == "trailers" or (event[0] in ("headers", "data") and event[3]):
                ended.add(event[1])
        while len(contents) < requests and len(contents) - len(ended) < CONCURRENT and capacity():
            contents[request(fields, body)] = b""
        sock.sendall(connection.take())
    return contents


@pytest.mark.parametrize("engine", [native, twin])
@pytest.mark.parametrize("body", [b"", b"x" * 30000], ids=["get", "post"])
def test_h2(engine: Engine, body: bytes) -> None:
    ours, theirs = socket.socketpair()
    server = H2Server(theirs)
    server.start()
    with ours:
        contents = drive(ours, engine, POST if body else GET, body, 60)
    server.join(TIMEOUT)
    assert server.error is None
    assert list(contents.values()) == [EVENTS] * 60


def test_h2_with_a_low_stream_limit() -> None:
    ours, theirs = socket.socketpair()
    server = H2Server(theirs, max_streams=1)
    server.start()
    with ours:
        contents = drive(ours, native, POST, b"hello", 20)
    server.join(TIMEOUT)
    assert server.error is None
    assert list(contents.values()) == [EVENTS] * 20


@contextlib.contextmanager
def nghttpd(root: Path) -> Iterator[int]:
    """nghttpd on a free port, cleartext, killed at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", str(root), "-v", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        try:
            assert any(b"listen" in line for line in process.stdout)
            drain.start()
            yield port
        finally:
            process.kill()
            process.wait(TIMEOUT)
            if drain.is_alive():
                drain.join(TIMEOUT)


@pytest.mark.skipif(shutil.which("nghttpd") is None, reason="nghttpd is not installed (Debian: nghttp2-server)")
@pytest.mark.parametrize(("body", "requests"), [(b"", 1000), (b"x" * 100000, 200)], ids=["get", "post"])
def test_nghttpd(tmp_path: Path, body: bytes, requests: int) -> None:
    (tmp_path / "sse").write_bytes(EVENTS)
    with nghttpd(tmp_path) as port, socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        contents = drive(sock, native, POST if body else GET, body, requests)
    assert list(contents.values()) == [EVENTS] * requests
