"""Any cutting of the same bytes is read the same: valid answers, broken ones, and bytes that only look like HTTP."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.wire import http1

LINE_ENDS = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\r\n"])

STATUS_LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 6
    + [b"HTTP/1.1 100 Continue", b"HTTP/1.1 103", b"HTTP/1.0 200 OK"]
    + [b"HTTP/1.1 204 ", b"HTTP/1.1 304 x", b"HTTP/1.1 2"]
)

FIELDS = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: 12",
        b"content-length: 5, 5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Connection: close",
        b"Connection: keep-alive, x",
        b"A: b",
        b"Longer-Name: \ta value of some words ",
        b"B : c",
        b" folded",
        b"C: \x00",
        b"D",
        b"E: " + b"x" * 40,
    ]
)

CHUNKS = st.sampled_from(
    [
        b"5\r\nhello\r\n",
        b"1;a=b\r\nx\r\n",
        b'a;a="\\"\\\\;" ; b \r\n0123456789\r\n',
        b"005\r\n\r\n\r\n\r\r\n",
        b"3 \r\nabc\r\n",
        b"0\r\n\r\n",
        b"0\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
        b"2\r\nabc\r\n",
        b"2\r\nab\n",
        b"ffffffffffffffff\r\n",
        b"x\r\n",
        b"hello",
    ]
)


@st.composite
def answers(draw):
    """Bytes like an answer, whole or not, right or not."""
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        parts += [draw(STATUS_LINES), draw(LINE_ENDS)]
        for field in draw(st.lists(FIELDS, max_size=4)):
            parts += [field, draw(LINE_ENDS)]
        parts += [draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b""]))]
    parts += draw(st.lists(CHUNKS, max_size=5))
    data = bytearray(b"".join(parts))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=2)):
        data[at] = byte
    return bytes(data)


def connection(pieces, method, limit):
    """Events of one answer with adjacent data joined; whether a rule was broken; bytes behind the answer count as none.

    Bytes behind an answer are surplus in the read that ends it and unasked-for in a later one; either way the
    connection is lost, so the end is compared without its `reusable` and only the first answer is read.
    """
    parser = http1.Parser(method=method, max_head_bytes=limit)
    events, broken = [], False
    try:
        for piece in pieces:
            events += parser.feed(piece)
            if events and events[-1][0] == "end":
                break
        else:
            events += parser.eof()
    except http1.Error as error:
        events += error.events
        broken = True
    joined = []
    for event in events:
        if event[0] == "data" and joined and joined[-1][0] == "data":
            joined[-1] = ("data", joined[-1][1] + event[1])
        else:
            joined.append(event[:1] if event[0] == "end" else event)
    return joined, broken


@settings(max_examples=300, deadline=None)
@given(
    data=answers(),
    places=st.lists(st.integers(0, 400), max_size=8),
    method=st.sampled_from([b"POST", b"POST", b"HEAD"]),
    limit=st.sampled_from([65536, 65536, 60]),
)
def test_any_cutting_is_read_the_same(data, places, method, limit):
    whole = connection([data], method, limit)
    assert connection([data[i : i + 1] for i in range(len(data))], method, limit) == whole
    edges = [0, *sorted(places), len(data)]
    assert connection([data[a:b] for a, b in itertools.pairwise(edges) if a < b], method, limit) == whole


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80), behind_a_status_line=st.booleans())
def test_any_bytes_are_events_or_an_error(data, behind_a_status_line):
    if behind_a_status_line:
        data = b"HTTP/1.1 200 OK\r\n" + data
    whole = connection([data], b"GET", 65536)
    assert connection([data[i : i + 1] for i in range(len(data))], b"GET", 65536) == whole


@settings(max_examples=100, deadline=None)
@given(bodies=st.lists(st.binary(max_size=40), min_size=2, max_size=5), chunked=st.booleans())
def test_answers_one_after_another(bodies, chunked):
    parser = http1.Parser()
    for body in bodies:
        if chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
        else:
            data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        events = [event for i in range(len(data)) for event in parser.feed(data[i : i + 1])]
        assert b"".join(event[1] for event in events if event[0] == "data") == body
        assert [event[0] for event in events if event[0] != "data"] == ["head", "end"]
        assert events[-1] == ("end", True)
