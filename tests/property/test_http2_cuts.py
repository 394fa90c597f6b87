"""Any cutting of the same bytes is read the same: valid answers, broken ones, and bytes that only look like frames."""

from __future__ import annotations

import itertools
from typing import Any

import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.wire import http2

Event = tuple[Any, ...]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")]


def frame(type: int, flags: int, sid: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([type, flags]) + sid.to_bytes(4, "big") + payload


def block(*fields: tuple[str, str]) -> bytes:
    return hpack.Encoder().encode(fields)


BLOCKS = st.sampled_from(
    [block((":status", "200"))] * 4
    + [
        block((":status", "200"), ("content-length", "5")),
        block((":status", "200"), ("content-type", "text/event-stream"), ("x-id", "0123456789" * 3)),
        block((":status", "103")),
        block(("trailer", "value")),
        block(*GET),
        block((":status", "2")),
        block((":status", "200"), ("Upper", "x")),
        b"\x82\xc0\xff",
        b"",
    ]
)
SIDS = st.sampled_from([1, 1, 1, 3, 3, 5, 0, 2, 7, 9])
FLAGS = st.sampled_from([0, 0, 1, 4, 4, 5, 5, 8, 9, 12, 13, 0x2C, 0xFF])
PAYLOADS = st.one_of(
    BLOCKS,
    BLOCKS.map(lambda b: b"\x03" + b + bytes(3)),
    st.sampled_from([b"hello", b"data: x\n\n", b"12345678", bytes(4), (5).to_bytes(4, "big"), b"\0\x04\0\0\0\x09"]),
    st.binary(max_size=20),
)
FRAMES = st.one_of(
    st.builds(frame, st.sampled_from([0, 0, 1, 1]), FLAGS, SIDS, PAYLOADS),
    st.builds(frame, st.integers(0, 11), FLAGS, SIDS, PAYLOADS),
    st.builds(frame, st.just(1), st.just(4), st.sampled_from([1, 3, 5]), st.just(block((":status", "200")))),
    st.builds(frame, st.just(0), st.sampled_from([0, 1]), st.sampled_from([1, 3, 5]), st.binary(max_size=30)),
)
STREAMS = st.lists(FRAMES, max_size=12).map(b"".join)
CUTS = st.lists(st.integers(0, 400), max_size=8)


def outcome(connection: http2.Client | http2.Server, pieces: list[bytes]) -> tuple[list[Event], int | None, bytes]:
    """Events with adjacent data merged, the error's code, and what the connection sends."""
    events: list[Event] = []
    code = None
    for piece in pieces:
        try:
            events += connection.feed(piece)
        except http2.Error as error:
            events += error.events
            code = error.code
            break
    merged: list[Event] = []
    for event in events:
        if merged and event[0] == merged[-1][0] == "data" and event[1] == merged[-1][1]:
            merged[-1] = ("data", event[1], merged[-1][2] + event[2], event[3])
        else:
            merged.append(event)
    return merged, code, connection.take()


def client() -> http2.Client:
    client = http2.Client(max_header_list_size=300)
    client.open()
    client.feed(frame(4, 0, 0, b""))
    client.request(GET)
    client.request([(":method", "HEAD"), *GET[1:]])
    client.request([(":method", "POST"), *GET[1:]], bytes(70000))
    client.take()
    return client


def server() -> http2.Server:
    server = http2.Server(max_streams=2)
    server.open()
    return server


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({min(place, len(data)) for place in at} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@settings(max_examples=600, deadline=None)
@given(STREAMS, CUTS)
def test_a_client_reads_any_cutting_the_same(data: bytes, at: list[int]) -> None:
    whole = outcome(client(), [data])
    assert outcome(client(), cut(data, at)) == whole
    assert outcome(client(), [data[i : i + 1] for i in range(len(data))]) == whole


@settings(max_examples=300, deadline=None)
@given(STREAMS, CUTS)
def test_a_server_reads_any_cutting_the_same(data: bytes, at: list[int]) -> None:
    data = PREFACE + frame(4, 0, 0, b"") + data
    whole = outcome(server(), [data])
    assert outcome(server(), cut(data, at)) == whole
    assert outcome(server(), [data[i : i + 1] for i in range(len(data))]) == whole


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.just(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n")), CUTS)
def test_anything_as_the_first_bytes(data: bytes, at: list[int]) -> None:
    results = []
    for pieces in ([data], cut(data, at), [data[i : i + 1] for i in range(len(data))]):
        client = http2.Client()
        client.open()
        results.append((outcome(client, pieces), client.reason))
    assert results[0] == results[1] == results[2]
