"""The embedded endpoint over HTTP/2 and TLS, seen by h2 and Python's ssl."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import numpy as np
import pytest

from llmgen.errors import ConfigError
from llmgen.simulator import Options, Service
from llmgen.simulator.faults import Fault
from llmgen.simulator.truth import gaps, read_truth, timing

WAIT = 20.0
SILENCE = 0.3
TOKENS = 8


def serving(*faults: str, **options: Any) -> Service:
    return Service(Options(**{"ttft": "1ms", "itl": "1ms", "fault": faults, **options}))


def dial(endpoint: Service) -> socket.socket:
    host, port = endpoint.url.split("//")[1].split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


class Client:
    """One HTTP/2 connection; collects what comes, by stream."""

    def __init__(self, connection: socket.socket, *, wide: bool = True) -> None:
        self.socket = connection
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.bodies: defaultdict[int, bytes] = defaultdict(bytes)
        self.heads: dict[int, dict[str, str]] = {}
        self.frames: defaultdict[int, int] = defaultdict(int)
        self.resets: dict[int, int] = {}
        self.ended: set[int] = set()
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.settings: dict[int, int] = {}
        self.end = ""
        if wide:  # so that the endpoint is never held up by our windows
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**24})
            self.h2.increment_flow_control_window(2**30)
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def request(
        self, method: str = "POST", path: str = "/v1/chat/completions", body: bytes | None = None, **members: Any
    ) -> int:
        stream = self.h2.get_next_available_stream_id()
        index = members.pop("index", None)
        if body is None:
            members = {
                "messages": [{"role": "user", "content": "well hi"}],
                "stream": True,
                "max_tokens": TOKENS,
                **members,
            }
            body = json.dumps(members).encode()
        headers = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "a")]
        if index is not None:
            headers.append(("x-request-id", f"run-{index}"))
        self.h2.send_headers(stream, headers, end_stream=not body)
        sent = 0
        while sent < len(body):
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(body) - sent)
            if room == 0:
                self.flush()
                self.read()
                continue
            sent += room
            self.h2.send_data(stream, body[sent - room : sent], end_stream=sent == len(body))
        self.flush()
        return stream

    def read(self) -> bool:
        """One read; False at the end of the connection."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            self.end = "reset"
            return False
        if not data:
            self.end = "closed"
            return False
        for event in self.h2.receive_data(data):
            self.take(event)
        self.flush()
        return True

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.heads[event.stream_id] = {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.frames[event.stream_id] += 1
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self.settings |= {int(key): change.new_value for key, change in event.changed_settings.items()}

    def wait(self, *streams: int) -> None:
        """Reads until the streams are over, or the connection is."""
        while not set(streams) <= self.ended | set(self.resets) and self.read():
            pass

    def drain(self) -> None:
        while self.read():
            pass


def tokens(body: bytes) -> int:
    return len(re.findall(rb'"delta":\{"content":"[^"]', body))


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE)
    try:
        return connection.recv(1) == b"never"
    except TimeoutError:
        return True


def test_streams_share_a_connection(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with serving(truth=str(path)) as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        streams = [client.request(index=n, max_tokens=n + 1, stream_options={"include_usage": True}) for n in range(50)]
        client.wait(*streams)
        for n, stream in enumerate(streams):
            assert client.heads[stream][":status"] == "200"
            assert client.heads[stream]["content-type"] == "text/event-stream; charset=utf-8"
            body = client.bodies[stream]
            assert tokens(body) == n + 1
            assert client.frames[stream] == n + 3  # role, tokens, end
            assert body.endswith(b"data: [DONE]\n\n")
            usage = json.loads(body.split(b"data: ")[-2])["usage"]
            assert usage == {"prompt_tokens": 2, "completion_tokens": n + 1, "total_tokens": n + 3}
    truth = read_truth(path)
    assert sorted(truth.requests["index"]) == list(range(50))
    assert sorted(truth.requests["stream"]) == streams
    assert len(set(truth.requests["connection"])) == 1
    assert (truth.writes["t"] > 0).all()
    times = timing(truth)
    assert times.ttft.min() >= 1_000_000
    assert sorted(times.tokens) == list(range(1, 51))
    assert len(gaps(truth)) == sum(range(50))
    assert truth.ends["detail"].tolist() == [0] * 50


def test_the_truth_is_between_request_and_receipt(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    received = []
    with serving(ttft="5ms", truth=str(path)) as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        for index in range(10):
            before = time.monotonic_ns()
            client.wait(client.request(index=index))
            received.append((before, time.monotonic_ns()))
    times = timing(read_truth(path))
    for row, (before, after) in enumerate(received):
        assert before < times.first_token[row] - times.ttft[row]
        assert times.first_token[row] < times.last_token[row] < after


def test_steps_share_writes(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with serving(step="30ms", truth=str(path)) as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        client.wait(*[client.request() for _ in range(100)])
    writes = read_truth(path).writes
    writes = writes[writes["tokens"] > 0]
    assert len(writes) == 100 * TOKENS
    assert len(np.unique(writes["t"])) < 100 * TOKENS // 20  # 100 streams, a write a step


def test_documents_and_refusals() -> None:
    with serving() as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        asked = {
            client.request("GET", "/v1/models", b""): "200",
            client.request("GET", "/health", b""): "200",
            client.request("GET", "/nothing", b""): "404",
            client.request("GET", "/v1/chat/completions", b""): "405",
            client.request(body=b"{"): "400",
            client.request(stream=False): "200",
            client.request("HEAD", "/v1/models", b""): "200",
        }
        client.wait(*asked)
        assert {stream: client.heads[stream][":status"] for stream in asked} == asked
        models, _, _, _, bad, whole, head = asked
        assert json.loads(client.bodies[models])["data"][0]["id"] == "simulated"
        assert json.loads(client.bodies[bad])["error"]["code"] == 400
        assert json.loads(client.bodies[whole])["usage"]["completion_tokens"] == TOKENS
        assert int(client.heads[whole]["content-length"]) == len(client.bodies[whole])
        assert client.bodies[head] == b""


def test_a_cancelled_stream_ends_alone(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with serving(itl="50ms", truth=str(path)) as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        first, second = client.request(index=0), client.request(index=1, max_tokens=3)
        while not client.bodies[first]:
            assert client.read()
        client.h2.reset_stream(first, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        client.wait(second)
        assert tokens(client.bodies[second]) == 3
    ends = read_truth(path).ends
    assert dict(zip(ends["index"].tolist(), ends["detail"].tolist(), strict=True)) == {0: Fault.cancelled, 1: 0}


def test_small_windows_of_the_client_lose_nothing() -> None:
    with serving(ttft="0", itl="0") as endpoint, dial(endpoint) as connection:
        client = Client(connection, wide=False)
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
        client.flush()
        while not client.settings:
            client.read()
        streams = [client.request(max_tokens=50) for _ in range(3)]
        client.wait(*streams)
        for stream in streams:
            assert tokens(client.bodies[stream]) == 50
            assert client.bodies[stream].endswith(b"data: [DONE]\n\n")


def test_a_client_that_does_not_read_is_waited_for() -> None:
    count = 60_000  # 13 MB
    with serving(ttft="0", itl="0") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request(max_tokens=count)
        with dial(endpoint) as other:
            second = Client(other)
            second.wait(second.request())  # is served meanwhile
            assert tokens(second.bodies[1]) == TOKENS
        pieces = []
        while stream not in client.ended:
            assert client.read()
            pieces.append(client.bodies.pop(stream, b""))
        assert tokens(b"".join(pieces)) == count


def test_http1_only_and_http2_only() -> None:
    with serving(http="1.1") as endpoint, dial(endpoint) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 505 ")
    with serving(http="2") as endpoint, dial(endpoint) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while piece := connection.recv(65536):
            received += piece
        assert received[3] == 4  # SETTINGS
        assert b"\x00\x00\x00\x01" in received  # GOAWAY with PROTOCOL_ERROR


def test_the_preface_may_come_byte_by_byte() -> None:
    with serving() as endpoint, dial(endpoint) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert connection.recv(65536)[3] == 4


def test_a_client_that_breaks_the_protocol_gets_goaway() -> None:
    with serving() as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request(max_tokens=100_000)
        while not client.bodies[stream]:
            assert client.read()
        connection.sendall(b"\x00\x00\x01\x08\x00\x00\x00\x00\x00\x00")  # WINDOW_UPDATE of one byte
        client.drain()
        assert client.goaway is not None
        assert client.goaway.error_code == h2.errors.ErrorCodes.FRAME_SIZE_ERROR


# --- faults --------------------------------------------------------------------------------------------------------


def raw_requests(count: int) -> bytes:
    """The opening bytes of a client with `count` requests, for tests that read frames themselves."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": TOKENS}).encode()
    for _ in range(count):
        stream = client.get_next_available_stream_id()
        path = "/v1/chat/completions"
        client.send_headers(stream, [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "a")])
        client.send_data(stream, body, end_stream=True)
    return client.data_to_send()


def read_all(connection: socket.socket) -> tuple[bytes, str]:
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        return received, "reset"
    return received, "closed"


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of every frame."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


DATA, GOAWAY, END_STREAM = 0, 7, 1


def test_goaway(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with serving("goaway:1", itl="20ms", truth=str(path)) as endpoint, dial(endpoint) as connection:
        connection.sendall(raw_requests(3))
        received, end = read_all(connection)
        assert end == "closed"
    seen = frames(received)
    (goaway,) = [payload for kind, _, _, payload in seen if kind == GOAWAY]
    last, code = int.from_bytes(goaway[:4], "big"), int.from_bytes(goaway[4:8], "big")
    assert (last in (1, 3, 5), code) == (True, h2.errors.ErrorCodes.NO_ERROR)
    assert {stream for kind, flags, stream, _ in seen if kind == DATA and flags & END_STREAM} == set(
        range(1, last + 1, 2)
    )
    for stream in range(1, last + 1, 2):
        body = b"".join(payload for kind, _, number, payload in seen if (kind, number) == (DATA, stream))
        assert tokens(body) == TOKENS
    ends = read_truth(path).ends
    assert sorted(ends["stream"]) == [1, 3, 5]
    assert set(ends["detail"]) == {Fault.goaway}


def test_refused_stream() -> None:
    with serving("refused-stream:1") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        streams = [client.request(), client.request()]
        client.wait(*streams)
        assert client.resets == dict.fromkeys(streams, h2.errors.ErrorCodes.REFUSED_STREAM)
        assert not client.heads


def test_rst_stream() -> None:
    with serving("rst-stream:1") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request()
        client.wait(stream)
        assert client.resets == {stream: h2.errors.ErrorCodes.INTERNAL_ERROR}
        assert tokens(client.bodies[stream]) == TOKENS // 2


def test_stream_limit() -> None:
    with serving("stream-limit:2", itl="50ms") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        while not client.settings:
            client.read()
        assert client.settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] == 2
        first, second = client.request(), client.request()
        with pytest.raises(h2.exceptions.TooManyStreamsError):
            client.request()
        client.wait(first, second)


def test_lowered_stream_limit() -> None:
    with serving("lowered-stream-limit:1") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        while not client.settings:
            client.read()
        assert client.settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] == 1000
        streams = [client.request() for _ in range(5)]
        client.wait(*streams)
        assert client.settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] == 1
        assert {tokens(client.bodies[stream]) for stream in streams} == {TOKENS}


def test_window() -> None:
    with serving("window:7") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        while not client.settings:
            client.read()
        assert client.settings[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] == 7
        stream = client.request()
        client.wait(stream)
        assert tokens(client.bodies[stream]) == TOKENS


def test_slow_settings() -> None:
    with serving("slow-settings:200ms") as endpoint, dial(endpoint) as connection:
        start = time.monotonic()
        client = Client(connection)
        stream = client.request()
        assert client.read()
        assert time.monotonic() - start >= 0.2
        assert client.settings
        client.wait(stream)
        assert tokens(client.bodies[stream]) == TOKENS


@pytest.mark.parametrize("status", [401, 429, 503])
def test_status(status: int) -> None:
    with serving(f"{status}:1") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request()
        client.wait(stream)
        assert client.heads[stream][":status"] == str(status)
        assert ("retry-after" in client.heads[stream]) == (status in (429, 503))
        assert json.loads(client.bodies[stream])["error"]["code"] == status


@pytest.mark.parametrize(("fault", "end"), [("reset:1", "reset"), ("drop:1", "closed"), ("eof:1", "closed")])
def test_faults_that_end_the_connection(fault: str, end: str) -> None:
    with serving(fault, itl="10ms") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request()
        client.drain()
        assert client.end == end
        assert stream not in client.ended
        assert client.goaway is None


def test_garbage() -> None:
    with serving("garbage:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(raw_requests(1))
        received, end = read_all(connection)
        assert received.endswith(b"this is no HTTP\r\n\r\n")
        assert end == "closed"


def test_faults_of_a_stream_leave_the_connection(tmp_path: Path) -> None:
    expected = {
        "cut:1": lambda body: tokens(body) == TOKENS // 2 and b"[DONE]" not in body,
        "error-event:1": lambda body: b'"error"' in body and body.endswith(b"data: [DONE]\n\n"),
        "malformed:1": lambda body: tokens(body) == TOKENS,
        "crlf:1": lambda body: body.endswith(b"data: [DONE]\r\n\r\n"),
        "split:1": lambda body: tokens(body) == TOKENS and not body.isascii(),
        "no-usage:1": lambda body: b"usage" not in body,
        "empty:1": lambda body: tokens(body) == 0 and b'"finish_reason":"stop"' in body,
        "unframed:1": lambda body: tokens(body) == TOKENS,
        "html:1": lambda body: b"<title>" in body,
    }
    for fault, is_right in expected.items():
        with serving(fault) as endpoint, dial(endpoint) as connection:
            client = Client(connection)
            for _ in range(2):
                stream = client.request(stream_options={"include_usage": True})
                client.wait(stream)
                assert stream in client.ended, fault
                assert is_right(client.bodies[stream]), fault


def test_close_says_goaway() -> None:
    with serving("close:1") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request()
        client.drain()
        assert tokens(client.bodies[stream]) == TOKENS
        assert client.goaway is not None
        assert client.goaway.error_code == h2.errors.ErrorCodes.NO_ERROR


@pytest.mark.parametrize("fault", ["hang:1", "stall:1"])
def test_silence(fault: str) -> None:
    with serving(fault) as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request()
        while tokens(client.bodies[stream]) < (TOKENS // 2 if fault == "stall:1" else 0):
            assert client.read()
        while not client.settings:
            assert client.read()
        client.socket.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            client.drain()
        assert tokens(client.bodies[stream]) == (TOKENS // 2 if fault == "stall:1" else 0)
        assert stream not in client.ended


def test_slow() -> None:
    with serving("slow:1") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request()
        while len(client.bodies[stream]) < 2:
            assert client.read()
        assert client.bodies[stream] == b"da"


def test_close_idle() -> None:
    with serving("close-idle:100ms") as endpoint, dial(endpoint) as connection:
        client = Client(connection)
        stream = client.request()
        client.drain()
        assert stream in client.ended
        assert client.goaway is not None
        assert client.end == "closed"


# --- TLS -----------------------------------------------------------------------------------------------------------


def trusting(path: Path, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(path))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def test_tls_by_alpn(tmp_path: Path) -> None:
    path, log = tmp_path / "cert.pem", tmp_path / "truth"
    with serving(tls=True, write_cert=str(path), truth=str(log)) as endpoint:
        assert endpoint.url.startswith("https://")
        with trusting(path, "h2", "http/1.1").wrap_socket(dial(endpoint), server_hostname="localhost") as connection:
            assert connection.selected_alpn_protocol() == "h2"
            client = Client(connection)
            streams = [client.request(index=n, max_tokens=n + 1) for n in range(20)]
            client.wait(*streams)
            assert [tokens(client.bodies[stream]) for stream in streams] == list(range(1, 21))
        host = endpoint.url.removeprefix("https://")
        for context in (trusting(path), trusting(path, "http/1.1")):
            plain = http.client.HTTPSConnection(host, context=context, timeout=WAIT)
            for _ in range(2):
                body = {"messages": [{"role": "user", "content": "x " * 50_000}], "stream": True, "max_tokens": 5}
                plain.request("POST", "/v1/chat/completions", json.dumps(body))
                assert tokens(plain.getresponse().read()) == 5
            plain.close()
    truth = read_truth(log)
    assert len(truth.requests) == 24
    assert (truth.writes["t"] > 0).all()


def test_tls_loses_nothing_when_the_client_pauses(tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    with serving(ttft="0", itl="0", tls=True, write_cert=str(path)) as endpoint:
        plain = http.client.HTTPSConnection(endpoint.url.removeprefix("https://"), context=trusting(path), timeout=WAIT)
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 60_000}
        plain.request("POST", "/v1/chat/completions", json.dumps(body))
        response = plain.getresponse()
        with trusting(path, "h2").wrap_socket(dial(endpoint), server_hostname="localhost") as connection:
            client = Client(connection)
            client.wait(client.request())
            assert tokens(client.bodies[1]) == TOKENS
        assert tokens(response.read()) == 60_000
        plain.close()


def test_what_is_not_tls_is_refused(tmp_path: Path) -> None:
    with serving(tls=True) as endpoint, dial(endpoint) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while piece := connection.recv(65536):
            received += piece
        assert not received.startswith(b"HTTP/")


def test_a_muted_handshake_stalls() -> None:
    with serving("mute:1", tls=True) as endpoint, dial(endpoint) as connection:
        context = ssl.create_default_context()
        connection.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            context.wrap_socket(connection, server_hostname="localhost")


def test_client_certificates(tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    server, client = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("client")
    paths = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "server", "key", "client")}
    authority.cert_pem.write_to_path(paths["ca"])
    server.cert_chain_pems[0].write_to_path(paths["server"])
    server.private_key_pem.write_to_path(paths["key"])
    client.private_key_and_cert_chain_pem.write_to_path(paths["client"])
    with serving(tls=True, cert=paths["server"], key=paths["key"], client_ca=paths["ca"]) as endpoint:
        with_one, without = trusting(Path(paths["ca"])), trusting(Path(paths["ca"]))
        with_one.load_cert_chain(paths["client"])
        host = endpoint.url.removeprefix("https://")
        good = http.client.HTTPSConnection(host, context=with_one, timeout=WAIT)
        good.request("GET", "/health")
        assert good.getresponse().status == 200
        good.close()
        bad = http.client.HTTPSConnection(host, context=without, timeout=WAIT)
        with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError)):
            ask_for_health(bad)
        bad.close()


def ask_for_health(connection: http.client.HTTPSConnection) -> int:
    connection.request("GET", "/health")
    return connection.getresponse().status


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (Options(tls=True, cert="/nonexistent.pem"), "cert"),
        (Options(cert="/nonexistent.pem"), "tls"),
        (Options(tls=True, client_ca="/nonexistent.pem"), "client_ca"),
        (Options(tls=True, write_cert="/nonexistent/cert.pem"), "write_cert"),
        (Options(tls=True, unix="/tmp/x.sock"), "unix"),
        (Options(http="3"), "http"),
    ],
)
def test_what_cannot_work_says_why(options: Options, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Service(options)
