"""http1 against h11 and httptools (llhttp) on generated answers, right ones and broken ones.

Right answers: all three read the same. Broken ones: where the independent readers agree that a rule is broken, so do
we; where they agree on a reading, ours is that reading or an error. The few places where we read more than one of them
on purpose are named below.
"""

import itertools
import re

import h11
import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.wire import http1

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_!", min_size=1, max_size=12).map(str.encode)
VALUE = st.lists(st.binary(max_size=6).map(lambda b: bytes(33 + c % 94 for c in b)), max_size=3).map(b" ".join)
FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"proxy-connection"}
FIELD = st.tuples(TOKEN, VALUE.map(bytes.strip)).filter(lambda field: field[0].lower() not in FRAMING)
OWS = st.sampled_from([b"", b" ", b"  ", b"\t"])
INTERIM = st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 \r\nLink: x\r\n\r\n"])
BODY = st.binary(max_size=60)


@st.composite
def answers(draw):
    """One right answer: bytes, (status, fields, body, reusable), method, whether it ends with the connection."""
    method = draw(st.sampled_from([b"POST", b"POST", b"GET", b"HEAD"]))
    minor = draw(st.sampled_from([1, 1, 1, 0]))
    status = draw(st.sampled_from([200, 200, 201, 204, 304, 400, 404, 429, 500, 503, 599]))
    fields = draw(st.lists(FIELD, max_size=4))
    body = draw(BODY)
    framing = draw(st.sampled_from(["length", "close", "chunked"][: 2 + minor]))
    if method == b"HEAD" or status in (204, 304):
        body, framing = b"", "none"
    if framing == "length":
        fields.append((b"Content-Length", b"%d" % len(body)))
    elif framing == "chunked":
        fields.append((b"Transfer-Encoding", b"chunked"))
    option = draw(st.sampled_from([None, b"close", b"keep-alive", b"Keep-Alive", b"x, Close"]))
    if option is not None:
        fields.append((b"Connection", option))
    fields = draw(st.permutations(fields))
    closes = option is not None and b"close" in option.lower()
    keeps = option is not None and b"keep-alive" in option.lower()
    reusable = framing != "close" and not closes and (minor == 1 or keeps)

    interim = draw(st.lists(INTERIM, max_size=2))
    lines = [b"HTTP/1.%d %d %b\r\n" % (minor, status, draw(VALUE))]
    for name, value in fields:
        after = draw(OWS)
        if name.lower() in FRAMING:
            after = after.replace(b"\t", b" ")  # llhttp does not know "chunked" with a tab behind it
        lines.append(b"%b:%b%b%b\r\n" % (name, draw(OWS), value, after))
    data = b"".join(interim) * minor + b"".join(lines) + b"\r\n"
    if framing == "chunked":
        at = 0
        while at < len(body):
            size = draw(st.integers(1, len(body) - at))
            extension = draw(st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;c"']))
            data += b"%b%x%b\r\n%b\r\n" % (draw(st.sampled_from([b"", b"0"])), size, extension, body[at : at + size])
            at += size
        data += b"0\r\n" + draw(st.sampled_from([b"", b"", b"Trailer: x\r\n"])) + b"\r\n"
    else:
        data += body
    return data, (status, [(n.lower(), v) for n, v in fields], body, reusable), method, framing == "close"


def pieces_of(data, places):
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def read_ours(pieces, method, eof):
    """(status, fields, body, reusable), "more" if it is not complete, or "error"."""
    parser = http1.Parser(method=method)
    events = []
    try:
        for piece in pieces:
            events += parser.feed(piece)
        if eof and not (events and events[-1][0] == "end"):
            events += parser.eof()
    except http1.Error:
        return "error"
    if not events or events[-1][0] != "end":
        return "more"
    body = b"".join(event[1] for event in events if event[0] == "data")
    return events[0][1], events[0][2], body, events[-1][1]


def read_h11(pieces, method, eof):
    connection = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=1 << 16)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    head, body = None, b""
    try:
        for piece in [*pieces, b""] if eof else pieces:
            connection.receive_data(piece)
            while True:
                event = connection.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    break
                if isinstance(event, h11.Response):
                    head = (event.status_code, [(bytes(n), bytes(v)) for n, v in event.headers])
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    reusable = connection.their_state is h11.DONE and not connection.trailing_data[0] and not eof
                    return *head, body, reusable
                elif isinstance(event, h11.ConnectionClosed):
                    return "error"
    except h11.RemoteProtocolError:
        return "error"
    return "more"


class Collector:
    """Callbacks of httptools; the final answer only."""

    def __init__(self):
        self.begin()
        self.complete = False

    def begin(self):
        self.fields, self.body = [], b""

    def on_message_begin(self):
        if not self.complete:
            self.begin()

    def on_header(self, name, value):
        if not self.complete:
            self.fields.append((name.lower(), value.rstrip(b" \t")))  # llhttp leaves blanks at the end

    def on_headers_complete(self):
        if not self.complete:
            self.status = self.parser.get_status_code()
            self.head_fields = list(self.fields)
            self.reusable = self.parser.should_keep_alive()

    def on_body(self, body):
        if not self.complete:
            self.body += body

    def on_message_complete(self):
        if self.status >= 200 and not self.complete:
            self.complete = True


def read_httptools(pieces, eof):
    collector = Collector()
    parser = collector.parser = httptools.HttpResponseParser(collector)
    try:
        for piece in pieces:
            parser.feed_data(piece)
            if collector.complete:
                break
    except httptools.HttpParserError:
        if not collector.complete:
            return "error"
    if not collector.complete:
        if not eof:
            return "more"
        if collector.__dict__.get("status", 0) < 200:
            return "error"
        return collector.status, collector.head_fields, collector.body, False
    return collector.status, collector.head_fields, collector.body, collector.reusable


def plain(fields):
    return sorted(field for field in fields if field[0] not in FRAMING)


@settings(max_examples=300, deadline=None)
@given(answer=answers(), places=st.lists(st.integers(0, 500), max_size=5))
def test_right_answers(answer, places):
    data, meaning, method, eof = answer
    pieces = pieces_of(data, places)
    assert read_ours(pieces, method, eof) == meaning
    status, fields, body, reusable = read_h11(pieces, method, eof)
    # h11 rewrites the framing fields, their order and letters are its own; it never keeps an HTTP/1.0 connection.
    assert (status, plain(fields), body) == (meaning[0], plain(meaning[1]), meaning[2])
    assert reusable == (meaning[3] and data[:8] != b"HTTP/1.0")
    if method != b"HEAD":  # httptools cannot be told of the request
        status, fields, body, _ = read_httptools(pieces, eof)
        assert (status, fields, body) == meaning[:3]


# What replaces a byte, or goes in between: whatever has a meaning somewhere.
NOISE = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b";", b",", b"0", b"5", b"f", b"\x00", b"\x80", b"-", b'"', b""]
)


# Read by us alone, as the RFC says: empty elements of a list of codings (RFC 9110, 5.6.1.2), and blanks before a
# chunk's extension (RFC 9112, 7.1.1).
ON_PURPOSE = re.compile(rb"^transfer-encoding:([ \t]*,|.*,[ \t]*\r?$)|^[0-9a-f]+[ \t]+;", re.I | re.M)


@st.composite
def broken_answers(draw):
    data, _, method, eof = draw(answers().filter(lambda answer: answer[2] != b"HEAD"))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw(NOISE) + data[at + draw(st.integers(0, 1)) :]
    return data, method, eof


@settings(max_examples=500, deadline=None)
@given(answer=broken_answers())
def test_broken_answers(answer):
    data, method, eof = answer
    ours = read_ours([data], method, eof)
    theirs = [read_h11([data], method, eof), read_httptools([data], eof)]
    if ours == "error" or ON_PURPOSE.search(data):
        return
    if ours == "more":
        # Neither of them may have found the end of an answer that we still wait for; both would be a desync.
        assert not all(isinstance(other, tuple) for other in theirs), (data, theirs)
        return
    # We found an end: one of them must have read the same status and body (an answer nobody else reads is made up).
    readings = [(other[0], other[2]) for other in theirs if isinstance(other, tuple)]
    assert (ours[0], ours[2]) in readings, (data, ours, theirs)
