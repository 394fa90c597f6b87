"""Every fault of the embedded endpoint as it looks on the wire (HTTP/1.1), read from raw sockets."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmgen.simulator import Options, Service
from llmgen.simulator.faults import FAULTS, SETTINGS, Fault
from llmgen.simulator.truth import read_truth

WAIT = 20.0
SILENCE = 0.3  # how long nothing must come to believe that nothing comes; answers take milliseconds here
TOKENS = 8


def serving(*faults: str, **options: Any) -> Service:
    return Service(Options(**{"ttft": "1ms", "itl": "1ms", "fault": faults, **options}))


def dial(endpoint: Service) -> socket.socket:
    host, port = endpoint.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


def ask(index: int | None = None, **members: Any) -> bytes:
    members = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": TOKENS, **members}
    body = json.dumps(members).encode()
    named = b"" if index is None else b"x-request-id: run-%d\r\n" % index
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n" % (len(body), named) + body


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """Reads until `mark` has come, or the endpoint closes."""
    received = b""
    while mark not in received and (piece := connection.recv(65536)):
        received += piece
    return received


def read_all(connection: socket.socket) -> tuple[bytes, str]:
    """Everything until the end, and whether that was a close or a reset."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        return received, "reset"
    return received, "closed"


def tokens(received: bytes) -> int:
    return len(re.findall(rb'"delta":\{"content":"', received))


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE)
    try:
        return connection.recv(1) == b"never"
    except TimeoutError:
        return True


LAST = b"0\r\n\r\n"


def test_every_fault_is_tested() -> None:
    here = Path(__file__)
    text = here.read_text() + here.with_name("test_simulator_http2.py").read_text()
    for name in [*FAULTS, *SETTINGS]:
        assert f'"{name}:' in text, name


@pytest.mark.parametrize("status", [301, 401, 404, 429, 500, 503, 504])
def test_status(status: int) -> None:
    with serving(f"{status}:1") as endpoint, dial(endpoint) as connection:
        for _ in range(2):  # on the same connection
            connection.sendall(ask())
            answer = read_until(connection, b"}}\n")
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert (b"retry-after: 1\r\n" in answer) == (status in (429, 503))
            assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == status


def attempt(endpoint: Service) -> bool:
    """Whether a new connection gets an answer; a reset may come as early as in connect."""
    try:
        with dial(endpoint) as connection:
            connection.sendall(ask(max_tokens=1))
            return read_until(connection, LAST).endswith(LAST)
    except (ConnectionResetError, BrokenPipeError):
        return False


def test_refuse() -> None:
    with serving("refuse:1") as endpoint:
        assert not any(attempt(endpoint) for _ in range(5))


def test_refuse_is_drawn_per_connection() -> None:
    with serving("refuse:0.5") as endpoint:
        assert 5 < sum(attempt(endpoint) for _ in range(40)) < 35


def test_mute() -> None:
    with serving("mute:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        assert is_silent(connection)


def test_drop() -> None:
    with serving("drop:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        assert read_all(connection) == (b"", "closed")


def test_hang() -> None:
    with serving("hang:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        assert is_silent(connection)


def test_garbage() -> None:
    with serving("garbage:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer, end = read_all(connection)
        assert answer
        assert not answer.startswith(b"HTTP")
        assert end == "closed"


def test_html() -> None:
    with serving("html:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer = read_until(connection, b"works!\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"content-type: text/html\r\n" in answer


def test_reset() -> None:
    with serving("reset:1", itl="20ms") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer, end = read_all(connection)
        assert end == "reset"
        assert 0 < tokens(answer) <= TOKENS // 2


def test_stall() -> None:
    with serving("stall:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        received = b""
        while tokens(received) < TOKENS // 2:
            received += connection.recv(65536)
        assert tokens(received) == TOKENS // 2
        assert is_silent(connection)


@pytest.mark.parametrize("stream", [True, False])
def test_slow(stream: bool) -> None:
    with serving("slow:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask(stream=stream))
        assert connection.recv(65536) == b"H"
        assert connection.recv(65536) == b"T"


def test_cut() -> None:
    with serving("cut:1") as endpoint, dial(endpoint) as connection:
        for _ in range(2):
            connection.sendall(ask())
            answer = read_until(connection, LAST)
            assert answer.endswith(b"\n\n\r\n" + LAST)
            assert tokens(answer) == TOKENS // 2
            assert b"[DONE]" not in answer
            assert b"length" not in answer


def test_eof() -> None:
    with serving("eof:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer, end = read_all(connection)
        assert end == "closed"
        assert tokens(answer[: answer.rindex(b"data: ")]) == TOKENS // 2
        assert not answer.endswith(b"\n")


@pytest.mark.parametrize("fault", ["cut:1", "eof:1"])
def test_a_whole_answer_is_cut_before_its_length(fault: str) -> None:
    with serving(fault) as endpoint, dial(endpoint) as connection:
        connection.sendall(ask(stream=False))
        (head, _, body), end = read_all(connection)[0].partition(b"\r\n\r\n"), "closed"
        told = re.search(rb"content-length: (\d+)", head)
        assert told is not None
        assert 0 < len(body) < int(told[1])
        assert end == "closed"


def test_malformed() -> None:
    with serving("malformed:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer = read_until(connection, LAST)
        assert tokens(answer) == TOKENS
        assert sum(map(is_broken, re.findall(rb"data: (\{.*)\n\n", answer))) == 1
        connection.sendall(ask(stream=False))
        head, _, body = read_until(connection, b"completion_tokens").partition(b"\r\n\r\n")
        told = re.search(rb"content-length: (\d+)", head)
        assert told is not None
        while len(body) < int(told[1]):
            body += connection.recv(65536)
        assert is_broken(body)


def is_broken(document: bytes) -> bool:
    try:
        json.loads(document)
    except ValueError:
        return True
    return False


def test_error_event() -> None:
    with serving("error-event:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer = read_until(connection, LAST)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert tokens(answer) == TOKENS // 2
        last, done = re.findall(rb"data: (.*)\n\n", answer)[-2:]
        assert json.loads(last)["error"]["message"]
        assert done == b"[DONE]"
        connection.sendall(ask(stream=False))
        assert read_until(connection, b"}}\n").startswith(b"HTTP/1.1 500 ")


def test_crlf() -> None:
    with serving("crlf:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer = read_until(connection, LAST)
        assert len(re.findall(rb"data: .*\r\n\r\n\r\n", answer)) == TOKENS + 2
        assert b"}\n" not in answer


def test_split(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with serving("split:1", itl="20ms", truth=str(path)) as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        reads = []
        while not reads or not reads[-1].endswith(LAST):
            reads.append(connection.recv(65536))
        whole = b"".join(reads)
        assert tokens(whole) == TOKENS
        whole.split(b"\r\n\r\n", 1)[1].decode()  # whole, it is valid
        assert any(ends_in_a_character(piece) for piece in reads)
    writes = read_truth(path).writes
    assert writes["tokens"].tolist()[-2 * TOKENS - 1 :] == [0, 1] * TOKENS + [0]


def ends_in_a_character(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def test_no_usage() -> None:
    usage = {"include_usage": True}
    with serving("no-usage:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask(stream_options=usage))
        assert b"usage" not in read_until(connection, LAST)
        connection.sendall(ask(stream=False))
        assert b"usage" not in read_until(connection, b"}\n")


def test_content_type() -> None:
    with serving("content-type:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer = read_until(connection, LAST)
        assert b"content-type: application/octet-stream\r\n" in answer
        assert tokens(answer) == TOKENS


def test_unframed() -> None:
    with serving("unframed:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        answer, end = read_all(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"content-length" not in head
        assert body.startswith(b"data: ")
        assert body.endswith(b"data: [DONE]\n\n")
        assert end == "closed"


@pytest.mark.parametrize("stream", [True, False])
def test_close(stream: bool) -> None:
    with serving("close:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask(stream=stream))
        answer, end = read_all(connection)
        assert b"connection: close\r\n" in answer
        assert answer.endswith(LAST if stream else b"}\n")
        assert end == "closed"


@pytest.mark.parametrize("stream", [True, False])
def test_empty(stream: bool) -> None:
    with serving("empty:1") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask(stream=stream))
        answer = read_until(connection, LAST if stream else b"}\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b'"content":""' in answer
        assert re.search(rb'"content":"[^"]', answer) is None
        assert b'"finish_reason":"stop"' in answer


def test_close_idle() -> None:
    with serving("close-idle:100ms") as endpoint, dial(endpoint) as connection, dial(endpoint) as unused:
        connection.sendall(ask())
        answer, end = read_all(connection)
        assert answer.endswith(LAST)
        assert end == "closed"
        assert read_all(unused) == (b"", "closed")


def test_a_running_answer_is_not_idle() -> None:
    with serving("close-idle:20ms", ttft="200ms") as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        assert read_all(connection)[0].endswith(LAST)


def test_probabilities_are_met_and_seeded_per_request(tmp_path: Path) -> None:
    drawn = []
    for run, order in enumerate([range(400), reversed(range(400))]):
        path = tmp_path / f"truth-{run}"
        with serving("429:0.25", "500:0.1", "empty:0.05", ttft="0", itl="0", seed=3, truth=str(path)) as endpoint:
            connection = dial(endpoint)
            for index in order:
                connection.sendall(ask(index, max_tokens=1, stream=False))
                read_until(connection, b"}\n")
            connection.close()
        rows = read_truth(path).requests
        drawn.append({int(row["index"]): int(row["detail"]) for row in rows})
    assert drawn[0] == drawn[1]
    counts = Counter(drawn[0].values())
    assert 100 < counts[Fault.status] < 180  # 140 expected, standard deviation 9.5
    assert 8 < counts[Fault.empty] < 36  # 20, 4.4


def test_ends_tell_the_fault(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with serving("cut:1", truth=str(path)) as endpoint, dial(endpoint) as connection:
        connection.sendall(ask())
        read_until(connection, LAST)
    ends = read_truth(path).ends
    assert ends["detail"].tolist() == [Fault.cut]
    assert ends["tokens"].tolist() == [TOKENS // 2]
