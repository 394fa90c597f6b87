"""The simulator's HTTP/1.1 request parser: RFC 9112's rules, and agreement with h11."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.simulator import request

HOST = b"Host: a\r\n"


def test_a_plain_request() -> None:
    data = b"POST /v1/x?api=1 HTTP/1.1\r\n" + HOST + b"Content-Length: 12\r\nX-Request-ID:  run-7 \r\n\r\n"
    assert request.parse_head(data) == ("POST", b"/v1/x", 12, False, True, b"run-7")


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST, True),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n", False),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: TE ,  Close\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_keep_alive(head: bytes, keep_alive: bool) -> None:
    parsed = request.parse_head(head + b"\r\n")
    assert isinstance(parsed, tuple)
    assert parsed[4] is keep_alive


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\n" + HOST + HOST, 400),
        (b"GET / HTTP/2.0\r\n" + HOST, 505),
        (b"GET / HTTX/1.1\r\n" + HOST, 400),
        (b"GET  / HTTP/1.1\r\n" + HOST, 400),
        (b"GET /\r\n" + HOST, 400),
        (b"G(T / HTTP/1.1\r\n" + HOST, 400),
        (b"GET /\x80 HTTP/1.1\r\n" + HOST, 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Name : x\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b" folded\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: \0\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\rc\r\n", 400),
        (b"GET / HTTP/1.1\n" + HOST, 400),
        (b"GET / HTTP/1.1\r\nHost: a\nA: b\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Expect: tea\r\n", 417),
    ],
)
def test_refusals(head: bytes, status: int) -> None:
    assert request.parse_head(head + b"\r\n") == status


def test_empty_lines_before_a_request_are_passed_over() -> None:
    assert isinstance(request.parse_head(b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n"), tuple)


def test_an_unfinished_head_is_none() -> None:
    assert request.parse_head(b"GET / HTTP/1.1\r\n" + HOST) is None


@given(st.integers(0, 60), st.integers(0, 255))
def test_no_request_that_h11_refuses_is_taken(at: int, byte: int) -> None:
    data = bytearray(b"POST /v1/models HTTP/1.1\r\nHost: example\r\nContent-Length: 3\r\nA: b\r\n\r\n")
    data[at] = byte
    parsed = request.parse_head(bytes(data))
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(bytes(data))
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        assert not isinstance(parsed, tuple)
        return
    if isinstance(event, h11.Request) and isinstance(parsed, tuple):
        assert parsed[1] == event.target.partition(b"?")[0]
        lengths = [value for name, value in event.headers if name == b"content-length"]
        assert parsed[2] == (int(lengths[0]) if lengths else -1)


BODY = b"5;note=x\r\nhello\r\n00A\r\n0123456789\r\n0\r\nTrailer: v\r\n\r\n"


@given(st.lists(st.integers(0, len(BODY)), max_size=8))
def test_chunks_do_not_depend_on_how_they_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(BODY)]
    pieces = [BODY[a:b] for a, b in itertools.pairwise(edges)]
    assert request.decode_chunks(pieces) == (b"hello0123456789", b"")


def test_bytes_behind_the_last_chunk_are_left() -> None:
    assert request.decode_chunks([BODY + b"GET /"]) == (b"hello0123456789", b"GET /")


@pytest.mark.parametrize("size", range(len(BODY)))
def test_an_unfinished_chunked_body_is_none(size: int) -> None:
    assert request.decode_chunks([BODY[:size]]) is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n", 400),
        (b"x\r\n", 400),
        (b"-1\r\n", 400),
        (b"5\nhello", 400),
        (b"5\r\nhelloX\r\n", 400),
        (b"5\r\nhello\nX", 400),
        (b"ffffffffffffffff\r\n", 413),
        (b"00000000000000001\r\n", 413),
        (b"1;" + b"x" * 5000, 400),
        (b"0\r\n\n", 400),
    ],
)
def test_broken_chunks(data: bytes, status: int) -> None:
    assert request.decode_chunks([data]) == status


@pytest.mark.parametrize(
    ("text", "index"),
    [
        (b"0639ee26-3d15-4000-8000-000000000042", 42),
        (b"run-1-42", 42),
        (b"a-0", 0),
        (b"a", -1),
        (b"a-", -1),
        (b"a-x", -1),
        (b"a-9999999999999999999", -1),
    ],
)
def test_index_of_a_request_id(text: bytes, index: int) -> None:
    assert request.index_of(text) == (index, 0)


def test_attempts_of_one_request_are_told_apart() -> None:
    index, salt = request.index_of(b"run-42.1")
    assert index == 42
    assert salt not in (0, request.index_of(b"run-42.2")[1])
    index, salt = request.index_of(b"0639ee26-3d15-4001-8000-000000000042")
    assert index == 42
    assert salt not in (0, request.index_of(b"0639ee26-3d15-4002-8000-000000000042")[1])
