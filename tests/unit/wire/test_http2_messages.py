"""HTTP/2, messages: header blocks, padding, CONTINUATION, 1xx, trailers, what is malformed (RFC 9113 6.2, 6.10, 8)."""

from __future__ import annotations

import pytest

from llmgen.wire import http2

PROTOCOL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, COMPRESSION_ERROR = 1, 5, 6, 9


def test_an_answer_in_one_frame(peer, client):
    sid = client.request(peer.GET)
    assert client.feed(peer.headers(sid, [(":status", "204"), ("a", "b")], end=True)) == [
        ("headers", sid, [(b":status", b"204"), (b"a", b"b")], True)
    ]
    assert client.open_streams == 0


def test_a_streamed_answer_with_trailers(peer, client):
    sid = client.request(peer.POST, b"{}")
    client.take()
    stream = (
        peer.headers(sid) + peer.data(sid, b"one ") + peer.data(sid, b"two") + peer.headers(sid, [("t", "v")], end=True)
    )
    assert client.feed(stream) == [
        ("headers", sid, [(b":status", b"200")], False),
        ("data", sid, b"one two", False),
        ("trailers", sid, [(b"t", b"v")]),
    ]
    assert client.open_streams == 0


def test_interleaved_streams(peer, client):
    one, three = client.request(peer.GET), client.request(peer.GET)
    events = client.feed(
        peer.headers(three)
        + peer.headers(one)
        + peer.data(one, b"a")
        + peer.data(three, b"b")
        + peer.data(one, b"c", True)
    )
    assert events[2:] == [("data", one, b"a", False), ("data", three, b"b", False), ("data", one, b"c", True)]


@pytest.mark.parametrize("pad", [0, 1, 255])
@pytest.mark.parametrize("priority", [False, True])
def test_headers_with_padding_and_priority(peer, client, pad, priority):
    sid = client.request(peer.GET)
    depends = (3).to_bytes(4, "big") + b"\x10" if priority else b""
    flags = peer.END_HEADERS | peer.PADDED | (peer.HAS_PRIORITY if priority else 0)
    payload = bytes([pad]) + depends + peer.block(peer.OK) + bytes(pad)
    assert client.feed(peer.frame(peer.HEADERS, flags, sid, payload)) == [
        ("headers", sid, [(b":status", b"200")], False)
    ]


def test_padding_that_leaves_an_empty_block_is_legal(peer, client):
    # the block then lacks :status: the message is malformed, not the frame
    sid = client.request(peer.GET)
    assert peer.resets(client, sid, peer.frame(peer.HEADERS, 4 | peer.PADDED, sid, b"\x02\0\0")) == PROTOCOL_ERROR


def test_padding_longer_than_headers(peer, client):
    sid = client.request(peer.GET)
    assert peer.fails(client, peer.frame(peer.HEADERS, 4 | peer.PADDED, sid, b"\x03\0\0")) == PROTOCOL_ERROR


@pytest.mark.parametrize(("flags", "payload"), [(8, b""), (32, b"1234"), (40, b"12345")])
def test_headers_too_short_for_their_flags(peer, client, flags, payload):
    sid = client.request(peer.GET)
    assert peer.fails(client, peer.frame(peer.HEADERS, 4 | flags, sid, payload)) == FRAME_SIZE_ERROR


def test_headers_that_depend_on_their_own_stream(peer, client):
    sid = client.request(peer.GET)
    payload = sid.to_bytes(4, "big") + b"\x10" + peer.block(peer.OK)
    assert peer.resets(client, sid, peer.frame(peer.HEADERS, 4 | peer.HAS_PRIORITY, sid, payload)) == PROTOCOL_ERROR


def test_priority_is_ignored(peer, client):
    sid = client.request(peer.GET)
    client.take()
    assert client.feed(peer.frame(peer.PRIORITY, 0, sid, b"\0\0\0\x05\x10")) == []
    assert client.feed(peer.frame(peer.PRIORITY, 0, 99, b"\0\0\0\x05\x10")) == []
    assert client.take() == b""


def test_malformed_priority(peer, client):
    sid = client.request(peer.GET)
    assert peer.resets(client, sid, peer.frame(peer.PRIORITY, 0, sid, b"1234")) == FRAME_SIZE_ERROR
    sid = client.request(peer.GET)
    assert peer.resets(client, sid, peer.frame(peer.PRIORITY, 0, sid, sid.to_bytes(4, "big") + b"x")) == PROTOCOL_ERROR
    assert peer.fails(client, peer.frame(peer.PRIORITY, 0, 0, b"12345")) == PROTOCOL_ERROR


@pytest.mark.parametrize("sid", [0, 2, 4])
def test_headers_on_streams_that_are_not_ours(peer, client, sid):
    client.request(peer.GET)
    assert peer.fails(client, peer.headers(sid)) == PROTOCOL_ERROR


def test_headers_on_an_idle_stream(peer, client):
    sid = client.request(peer.GET)
    assert peer.fails(client, peer.headers(sid + 2)) == PROTOCOL_ERROR


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_block_in_many_continuations(peer, client, size):
    sid = client.request(peer.GET)
    block = peer.block([(":status", "200"), ("x-field", "some value"), ("x-other", "another value")])
    parts = [block[at : at + size] for at in range(0, len(block), size)]
    data = peer.frame(peer.HEADERS, peer.END_STREAM, sid, parts[0])
    for part in parts[1:-1]:
        data += peer.frame(peer.CONTINUATION, 0, sid, part)
    data += peer.frame(peer.CONTINUATION, peer.END_HEADERS, sid, parts[-1])
    events = client.feed(data)
    assert events == [
        ("headers", sid, [(b":status", b"200"), (b"x-field", b"some value"), (b"x-other", b"another value")], True)
    ]


def test_empty_fragments(peer, client):
    sid = client.request(peer.GET)
    data = peer.frame(peer.HEADERS, 0, sid) + peer.frame(peer.CONTINUATION, 0, sid)
    data += peer.frame(peer.CONTINUATION, peer.END_HEADERS, sid, peer.block(peer.OK))
    assert [e[0] for e in client.feed(data)] == ["headers"]


def test_nothing_may_interrupt_a_block(peer, client):
    sid = client.request(peer.GET)
    client.request(peer.GET)
    for other in [
        peer.ping(),
        peer.data(sid, b"x"),
        peer.headers(3),
        peer.window(0, 1),
        peer.settings(),
        peer.frame(0x55),
        peer.frame(peer.CONTINUATION, peer.END_HEADERS, 3),
        peer.rst(sid),
    ]:
        fresh = http2.Client()
        fresh.open()
        fresh.feed(peer.settings())
        fresh.request(peer.GET)
        fresh.request(peer.GET)
        assert peer.fails(fresh, peer.frame(peer.HEADERS, 0, sid, b"\x88") + other) == PROTOCOL_ERROR


def test_continuation_without_headers(peer, client):
    sid = client.request(peer.GET)
    assert peer.fails(client, peer.frame(peer.CONTINUATION, 4, sid, b"\x88")) == PROTOCOL_ERROR
    fresh = http2.Client()
    fresh.open()
    fresh.feed(peer.settings())
    sid = fresh.request(peer.GET)
    late = peer.headers(sid) + peer.frame(peer.CONTINUATION, 4, sid, b"\x88")
    assert peer.fails(fresh, late) == PROTOCOL_ERROR


@pytest.mark.parametrize("block", [b"\x80", b"\xff\xff\xff\xff\xff\x7f", b"\x40", b"\x3f\xff\xff\x7f", b"\xc6"])
def test_compression_errors(peer, client, block):
    sid = client.request(peer.GET)
    assert peer.fails(client, peer.frame(peer.HEADERS, 4, sid, block)) == COMPRESSION_ERROR


def test_interim_answers_are_consumed(peer, client):
    sid = client.request(peer.GET)
    interim = peer.headers(sid, [(":status", "103"), ("link", "x")]) + peer.headers(sid, [(":status", "100")])
    assert client.feed(interim) == []
    assert client.feed(peer.headers(sid, end=True)) == [("headers", sid, [(b":status", b"200")], True)]


def test_an_interim_answer_cannot_end_the_stream(peer, client):
    sid = client.request(peer.GET)
    assert peer.resets(client, sid, peer.headers(sid, [(":status", "103")], end=True)) == PROTOCOL_ERROR


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("a", "b")],
        [(":status", "20")],
        [(":status", "2000")],
        [(":status", "")],
        [(":status", "2x0")],
        [(":status", "099")],
        [(":status", " 200")],
        [(":status", "+20")],
        [(":status", "101")],
        [(":status", "200"), (":status", "200")],
        [("a", "b"), (":status", "200")],
        [(":status", "200"), ("a", "b"), (":status", "200")],
        [(":status", "200"), (":path", "/")],
        [(":status", "200"), (":unknown", "x")],
        [(":status", "200"), (":", "x")],
        [(":status", "200"), ("Upper", "x")],
        [(":status", "200"), ("a b", "x")],
        [(":status", "200"), ("a:b", "x")],
        [(":status", "200"), ("a\x7f", "x")],
        [(":status", "200"), ("a\xe4", "x")],
        [(":status", "200"), ("a\n", "x")],
        [(":status", "200"), ("", "x")],
        [(":status", "200"), ("a", "x\ny")],
        [(":status", "200"), ("a", "x\ry")],
        [(":status", "200"), ("a", "x\0y")],
        [(":status", "200"), ("a", " x")],
        [(":status", "200"), ("a", "x ")],
        [(":status", "200"), ("a", "\tx")],
        [(":status", "200"), ("a", "x\t")],
        [(":status", "200"), ("connection", "close")],
        [(":status", "200"), ("keep-alive", "1")],
        [(":status", "200"), ("proxy-connection", "x")],
        [(":status", "200"), ("transfer-encoding", "chunked")],
        [(":status", "200"), ("upgrade", "x")],
        [(":status", "200"), ("te", "gzip")],
        [(":status", "200"), ("content-length", "x")],
        [(":status", "200"), ("content-length", "")],
        [(":status", "200"), ("content-length", "-1")],
        [(":status", "200"), ("content-length", "1, 1")],
        [(":status", "200"), ("content-length", "1"), ("content-length", "2")],
        [(":status", "200"), ("content-length", "9" * 19)],
    ],
)
def test_malformed_heads_cost_their_stream_only(peer, client, fields):
    one, three = client.request(peer.GET), client.request(peer.GET)
    client.take()
    assert peer.resets(client, one, peer.headers(one, fields)) == PROTOCOL_ERROR
    # what was under way is dropped, the connection and its header table go on
    assert client.feed(peer.data(one, b"late", end=True)) == []
    assert [e[:2] for e in client.feed(peer.headers(three, [(":status", "200"), ("a", "b")], end=True))] == [
        ("headers", three)
    ]


@pytest.mark.parametrize(
    "fields",
    [
        [(":status", "200"), ("te", "trailers")],
        [(":status", "999")],
        [(":status", "200"), ("a", "")],
        [(":status", "200"), ("a", "\u00e4 \x01")],
        [(":status", "200"), ("!#$%&'*+-.^_`|~09az", "x")],
        [(":status", "200"), ("connections", "x"), ("t", "y")],
        [(":status", "200"), ("content-length", "0"), ("content-length", "0")],
    ],
)
def test_heads_that_only_look_odd(peer, client, fields):
    sid = client.request(peer.GET)
    raw = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields]
    assert client.feed(peer.headers(sid, raw, end=True)) == [("headers", sid, raw, True)]


@pytest.mark.parametrize(
    ("fields", "end"),
    [([("a", "b")], False), ([(":status", "200")], True), ([("A", "b")], True), ([("te", "x")], True)],
)
def test_malformed_trailers(peer, client, fields, end):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid) + peer.data(sid, b"x"))
    assert peer.resets(client, sid, peer.headers(sid, fields, end)) == PROTOCOL_ERROR


def test_data_before_headers(peer, client):
    sid = client.request(peer.GET)
    assert peer.resets(client, sid, peer.data(sid, b"x")) == PROTOCOL_ERROR


def test_data_after_an_interim_answer_only(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid, [(":status", "100")]))
    assert peer.resets(client, sid, peer.data(sid, b"x")) == PROTOCOL_ERROR


def with_length(n: int, status: str = "200") -> list[tuple[str, str]]:
    return [(":status", status), ("content-length", str(n))]


def test_content_length_that_is_kept(peer, client):
    sid = client.request(peer.GET)
    events = client.feed(
        peer.headers(sid, with_length(5)) + peer.data(sid, b"he", pad=9) + peer.data(sid, b"llo", True)
    )
    assert events[1] == ("data", sid, b"hello", True)


@pytest.mark.parametrize("content", [b"", b"four"])
def test_content_shorter_than_its_length(peer, client, content):
    sid = client.request(peer.GET)
    data = peer.headers(sid, with_length(5)) + peer.data(sid, content, end=True)
    assert peer.resets(client, sid, data) == PROTOCOL_ERROR


def test_content_longer_than_its_length_is_not_delivered(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid, with_length(5)) + peer.data(sid, b"four"))
    for part in [peer.data(sid, b"five!")[:11], peer.data(sid, b"five!")[11:]]:
        events = client.feed(part)
        assert events in ([("reset", sid, PROTOCOL_ERROR)], [])
    assert client.open_streams == 0


def test_length_without_content(peer, client):
    sid = client.request(peer.GET)
    assert peer.resets(client, sid, peer.headers(sid, with_length(5), end=True)) == PROTOCOL_ERROR
    sid = client.request(peer.GET)
    data = peer.headers(sid, with_length(5)) + peer.headers(sid, [("t", "v")], end=True)
    assert peer.resets(client, sid, data) == PROTOCOL_ERROR


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200"), ("GET", "304"), ("GET", "204")])
def test_length_of_answers_that_have_no_content(peer, client, method, status):
    sid = client.request([(":method", method), *peer.GET[1:]])
    assert client.feed(peer.headers(sid, with_length(5, status), end=True))[0][3] is True
    sid = client.request([(":method", method), *peer.GET[1:]])
    assert client.feed(peer.headers(sid, with_length(5, status)) + peer.data(sid, end=True))[-1] == (
        "data",
        sid,
        b"",
        True,
    )
    sid = client.request([(":method", method), *peer.GET[1:]])
    data = peer.headers(sid, with_length(5, status)) + peer.data(sid, b"hello", end=True)
    assert peer.resets(client, sid, data) == PROTOCOL_ERROR


def test_frames_behind_end_stream(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid, end=True))
    assert client.feed(peer.window(sid, 1) + peer.rst(sid, 0) + peer.frame(peer.PRIORITY, 0, sid, bytes(5))) == []
    assert peer.fails(client, peer.data(sid, b"x")) == STREAM_CLOSED


def test_headers_behind_end_stream(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid) + peer.data(sid, b"x", end=True))
    assert peer.fails(client, peer.headers(sid, [("t", "v")], end=True)) == STREAM_CLOSED


def test_a_header_list_above_the_limit_costs_its_stream_only(peer):
    client = http2.Client(max_header_list_size=1000)
    client.open()
    client.feed(peer.settings())
    one, three = client.request(peer.GET), client.request(peer.GET)
    client.take()
    large = [(":status", "200"), ("x-small", "kept in the table"), ("x-large", "y" * 1000)]
    assert peer.resets(client, one, peer.headers(one, large)) == PROTOCOL_ERROR
    small = [(":status", "200"), ("x-small", "kept in the table")]  # encoded as indices into the dynamic table
    assert client.feed(peer.headers(three, small, end=True))[0][2][1] == (b"x-small", b"kept in the table")


def test_an_answer_before_the_request_is_complete(peer, client):
    client.feed(peer.settings({4: 10}))
    sid = client.request(peer.POST, b"x" * 100)
    client.take()
    assert client.feed(peer.headers(sid, [(":status", "413")], end=True))[0][3] is True
    last = peer.frames(client.take())[-1]
    assert (last.type, last.sid, last.code) == (peer.RST_STREAM, sid, 8)
    assert client.feed(peer.rst(sid, 0)) == []
    assert client.open_streams == 0
