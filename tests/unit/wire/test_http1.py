"""HTTP/1.1 responses, rule by rule (RFC 9112). Every case is read whole, byte by byte and in every two pieces."""

import pytest

from llmgen.wire import http1

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def merged(events):
    """Adjacent data joined: where a piece of a body ends is the network's choice."""
    out = []
    for event in events:
        if event[0] == "data" and out and out[-1][0] == "data":
            out[-1] = ("data", out[-1][1] + event[1])
        else:
            out.append(event)
    return out


def read(pieces, *, method=b"POST", eof=False, **limits):
    """Events of one connection, ("error", text) last if a rule was broken."""
    parser = http1.Parser(method=method, **limits)
    events = []
    try:
        for piece in pieces:
            events += parser.feed(piece)
        if eof:
            events += parser.eof()
    except http1.Error as error:
        events += error.events
        events.append(("error", str(error)))
    return merged(events)


def cuts(data):
    """The same bytes whole, one by one, and in every two pieces."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(1, len(data)):
        yield [data[:i], data[i:]]


def read_any(data, **how):
    """What `data` is read as, however it is cut."""
    whole = read([data], **how)
    for pieces in cuts(data):
        assert read(pieces, **how) == whole
    return whole


def body_of(events):
    return b"".join(event[1] for event in events if event[0] == "data")


def error_of(data, **how):
    """The text of the error that `data` is, however it is cut; the events before it do not depend on the cut."""
    whole = read([data], **how)
    assert whole[-1][0] == "error", whole
    for pieces in cuts(data):
        other = read(pieces, **how)
        assert other[-1][0] == "error", (pieces, other)
        assert body_of(other) == body_of(whole)
    return whole[-1][1]


# ---- heads


def test_a_whole_answer():
    assert read_any(OK + b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello") == [
        ("head", 200, [(b"content-type", b"text/plain"), (b"content-length", b"5")]),
        ("data", b"hello"),
        ("end", True),
    ]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK", 200),
        (b"HTTP/1.1 200 ", 200),
        (b"HTTP/1.1 200", 200),
        (b"HTTP/1.1 404 Not  Found, \xc3\xa4", 404),
        (b"HTTP/1.1 599 x", 599),
        (b"HTTP/1.1 999 x", 999),
        (b"HTTP/1.7 200 OK", 200),
    ],
)
def test_status_lines(line, status):
    assert read_any(line + b"\r\nContent-Length: 0\r\n\r\n") == [
        ("head", status, [(b"content-length", b"0")]),
        ("end", True),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/11 200 OK",
        b"HTTP/1.10 200 OK",
        b"HTTP/1.x 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1 -20 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1",
        b"HTTP/1.1 200 a\x00b",
        b"HTTP/1.1 200 a\rb",
        b"HTTP/1.1 200 OK\r",
        b" HTTP/1.1 200 OK",
        b"",
        b"\r\nHTTP/1.1 200 OK",
    ],
)
def test_bad_status_lines(line):
    error_of(line + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("first", [b"\x15\x03\x01", b"SSH-2.0-x", b"<html>", b"\x00\x00\x12\x04", b"H2", b"HTTP/2"])
def test_another_protocol_is_told_by_its_first_bytes(first):
    assert "not an HTTP/1.x answer" in error_of(first)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"A: b", (b"a", b"b")),
        (b"A:b", (b"a", b"b")),
        (b"A: \t b c\t ", (b"a", b"b c")),
        (b"A:", (b"a", b"")),
        (b"A:  ", (b"a", b"")),
        (b"A: b: c", (b"a", b"b: c")),
        (b"A: \xff\x80\x01\x7f", (b"a", b"\xff\x80\x01\x7f")),
        (b"!#$%&'*+-.^_`|~09aZ: b", (b"!#$%&'*+-.^_`|~09az", b"b")),
        (b"A: b\r\n c", (b"a", b"b c")),
        (b"A: b \t\r\n \t c \r\n\td", (b"a", b"b c d")),
        (b"A:\r\n b", (b"a", b"b")),
        (b"A: b\r\n ", (b"a", b"b")),
        (b"A: b\n c", (b"a", b"b c")),
    ],
)
def test_field_lines(line, field):
    events = read_any(OK + line + b"\r\nContent-Length: 0\r\n\r\n")
    assert events == [("head", 200, [field, (b"content-length", b"0")]), ("end", True)]


@pytest.mark.parametrize(
    "line",
    [
        b"A : b",
        b"A\t: b",
        b"A",
        b": b",
        b"A b: c",
        b"A\x00: b",
        b"A(: b",
        b"A\x80: b",
        b"A: b\x00",
        b"A: b\rc",
        b"A: b\r",
        b"A: \r b",
        b"A: b\r\r\nB: c",
        b"A: b\r\n c\x00",
        b"A: b\r\n c\rd",
        b"\rA: b",
        b"A: b\n\r\rB: c",
    ],
)
def test_bad_field_lines(line):
    error_of(OK + line + b"\r\nContent-Length: 0\r\n\r\n")


def test_a_fold_needs_a_field_before_it():
    error_of(OK + b" A: b\r\nContent-Length: 0\r\n\r\n")
    error_of(OK + b"\t\r\n  \r\nContent-Length: 0\r\n\r\n")
    error_of(OK + b" \r\n\r\n")


def test_bare_lf_ends_the_lines_of_a_head():
    assert read_any(b"HTTP/1.1 200 OK\nA: b\r\nContent-Length: 2\n\nhi") == [
        ("head", 200, [(b"a", b"b"), (b"content-length", b"2")]),
        ("data", b"hi"),
        ("end", True),
    ]
    assert read_any(b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nhi")[1:] == [("data", b"hi"), ("end", True)]


def test_limits_of_a_head_hold_across_pieces():
    head = OK + b"A: " + b"x" * 50 + b"\r\nContent-Length: 0\r\n\r\n"
    assert read_any(head, max_head_bytes=len(head))[-1] == ("end", True)
    assert error_of(head, max_head_bytes=len(head) - 1) == "head too large"
    # The head's limit says nothing about the body.
    whole = OK + b"Content-Length: 9\r\n\r\n" + b"b" * 9
    assert read_any(whole, max_head_bytes=len(whole) - 9)[-1] == ("end", True)


def test_an_endless_head_is_refused_at_the_limit():
    parser = http1.Parser(max_head_bytes=1000)
    parser.feed(OK)
    for _ in range(1000 - len(OK)):
        assert parser.feed(b"a") == []
    with pytest.raises(http1.Error, match="head too large"):
        parser.feed(b"a")


def test_number_of_fields():
    def head(n):
        return OK + b"".join(b"a%d: b\r\n" % i for i in range(n)) + b"\r\n"

    assert len(read([head(256)])[0][2]) == 256
    assert read([head(257)]) == [("error", "too many fields")]


# ---- interim answers


def test_interim_answers_are_left_out():
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n"
    assert read_any(interim + OK + b"Content-Length: 1\r\n\r\nx") == [
        ("head", 200, [(b"content-length", b"1")]),
        ("data", b"x"),
        ("end", True),
    ]


def test_connection_options_of_an_interim_answer_count_for_nothing():
    interim = b"HTTP/1.1 100 x\r\nConnection: close\r\n\r\n"
    assert read_any(interim + OK + b"Content-Length: 0\r\n\r\n")[-1] == ("end", True)


def test_number_of_interim_answers():
    final = OK + b"Content-Length: 0\r\n\r\n"
    assert read([b"HTTP/1.1 102 x\r\n\r\n" * 32 + final])[-1] == ("end", True)
    assert read([b"HTTP/1.1 102 x\r\n\r\n" * 33 + final]) == [("error", "too many 1xx answers")]
    # The count begins anew with the next request.
    parser = http1.Parser()
    for _ in range(2):
        assert parser.feed(b"HTTP/1.1 102 x\r\n\r\n" * 32 + final)[-1] == ("end", True)


def test_an_upgrade_is_refused():
    assert "101" in error_of(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n")


# ---- Content-Length


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5",
        b"content-LENGTH:5 ",
        b"Content-Length: 005",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: 5 ,5\r\nContent-Length: 05",
        b"Content-Length: 5,\r\n 5",
    ],
)
def test_content_length(fields):
    events = read_any(OK + fields + b"\r\n\r\nhello")
    assert events[1:] == [("data", b"hello"), ("end", True)]


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length:",
        b"Content-Length: +5",
        b"Content-Length: -5",
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"Content-Length: 5;",
        b"Content-Length: 5.0",
        b"Content-Length: 5,",
        b"Content-Length: ,5",
        b"Content-Length: 5,,5",
        b"Content-Length: 5, 6",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nContent-Length:",
        b"Content-Length: 9223372036854775808",
        b"Content-Length: 18446744073709551621",
        b"Content-Length: 99999999999999999999999999999999999",
        b"Content-Length: \x0b5",
        b"Content-Length: \xb25",
        b"Content-Length: five",
    ],
)
def test_bad_content_length(fields):
    error_of(OK + fields + b"\r\n\r\nhello")


def test_the_largest_content_length():
    assert read([OK + b"Content-Length: 9223372036854775807\r\n\r\nx"])[1:] == [("data", b"x")]


# ---- bodies that are not there


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(status):
    assert read_any(b"HTTP/1.1 %d x\r\nA: b\r\n\r\n" % status) == [("head", status, [(b"a", b"b")]), ("end", True)]


def test_304_announces_what_a_200_would_have():
    assert read_any(b"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n")[-1] == ("end", True)
    assert read_any(b"HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n")[-1] == ("end", True)


@pytest.mark.parametrize("fields", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_204_that_announces_a_body_is_not_reused(fields):
    assert read_any(b"HTTP/1.1 204 x\r\n" + fields + b"\r\n\r\n")[-1] == ("end", False)


def test_204_may_say_that_it_is_empty():
    assert read_any(b"HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n")[-1] == ("end", True)


@pytest.mark.parametrize("fields", [b"A: b", b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_the_answer_to_head_has_no_body(fields):
    assert [e[0] for e in read_any(OK + fields + b"\r\n\r\n", method=b"HEAD")] == ["head", "end"]
    assert read_any(OK + fields + b"\r\n\r\n", method=b"HEAD")[-1] == ("end", True)


def test_205_has_the_body_that_it_announces():
    assert read_any(b"HTTP/1.1 205 x\r\nContent-Length: 1\r\n\r\nx")[1:] == [("data", b"x"), ("end", True)]


# ---- chunked


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        b"b\r\nhello world\r\n0\r\n\r\n",
        b"B\r\nhello world\r\n00000\r\n\r\n",
        b"0000000000000000000000000b\r\nhello world\r\n0\r\n\r\n",
        b"b;a\r\nhello world\r\n0;b=c\r\n\r\n",
        b'b ; a = "x;\\"\\\\" ; c\r\nhello world\r\n0\r\n\r\n',
        b'b;a="";b="\xc3\xa4\t";c=d\r\nhello world\r\n0;x\r\n\r\n',
        b"b \t\r\nhello world\r\n0  \r\n\r\n",
        b"b;a \r\nhello world\r\n0\r\n\r\n",
    ],
)
def test_chunks(body):
    events = read_any(CHUNKED + body)
    assert events[1:] == [("data", b"hello world"), ("end", True)]


def test_chunk_data_may_look_like_anything():
    data = b"\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n"
    assert read_any(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))[1:] == [("data", data), ("end", True)]


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b";a\r\nx\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5g\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\rhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n",
        b"8000000000000000\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"5;\r\nhello\r\n0\r\n\r\n",
        b"5;;a\r\nhello\r\n0\r\n\r\n",
        b"5;=a\r\nhello\r\n0\r\n\r\n",
        b"5;a=\r\nhello\r\n0\r\n\r\n",
        b"5;a=b=c\r\nhello\r\n0\r\n\r\n",
        b"5;a b\r\nhello\r\n0\r\n\r\n",
        b'5;a="b\r\nhello\r\n0\r\n\r\n',
        b'5;a="b"c\r\nhello\r\n0\r\n\r\n',
        b'5;a=b"c"\r\nhello\r\n0\r\n\r\n',
        b'5;a="\n"\r\nhello\r\n0\r\n\r\n',
        b'5;a="\\\r"\r\nhello\r\n0\r\n\r\n',
        b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
        b"5;a\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_bad_chunks(body):
    error_of(CHUNKED + body)


def test_the_largest_chunk():
    assert read([CHUNKED + b"7fffffffffffffff\r\nx"])[1:] == [("data", b"x")]


def test_length_of_a_chunk_size_line():
    def line(n):
        return b"1;" + b"a" * (n - 4) + b"\r\n"

    assert read([CHUNKED, line(4096) + b"x\r\n0\r\n\r\n"])[-1] == ("end", True)
    assert read([CHUNKED, line(4097)])[-1] == ("error", "chunk size line too long")
    zeros = b"0" * 5000
    assert read([CHUNKED] + [zeros[i : i + 1] for i in range(5000)])[-1] == ("error", "chunk size line too long")


def test_trailers():
    section = b"A: b\r\nContent-Length: 7\r\nTransfer-Encoding: x\r\nC: d\r\n e\r\n\r\n"
    assert read_any(CHUNKED + b"2\r\nhi\r\n0\r\n" + section) == [
        ("head", 200, [(b"transfer-encoding", b"chunked")]),
        ("data", b"hi"),
        ("trailers", [(b"a", b"b"), (b"content-length", b"7"), (b"transfer-encoding", b"x"), (b"c", b"d e")]),
        ("end", True),
    ]


def test_a_connection_option_in_trailers_counts_for_nothing():
    assert read_any(CHUNKED + b"0\r\nConnection: close\r\n\r\n")[-1] == ("end", True)


@pytest.mark.parametrize(
    "trailers",
    [
        b"A\r\n\r\n",
        b"A : b\r\n\r\n",
        b" A: b\r\n\r\n",
        b" \r\n x\r\n\r\n",
        b"A: \x00\r\n\r\n",
        b"A: b\rc\r\n\r\n",
        b"\rA: b\r\n\r\n",
    ],
)
def test_bad_trailers(trailers):
    error_of(CHUNKED + b"0\r\n" + trailers)


def test_limit_of_the_trailer_section_holds_across_pieces():
    trailers = b"A: " + b"x" * 100 + b"\r\n\r\n"
    assert read_any(CHUNKED + b"0\r\n" + trailers, max_head_bytes=len(trailers))[-1] == ("end", True)
    assert error_of(CHUNKED + b"0\r\n" + trailers, max_head_bytes=len(trailers) - 1) == "trailer section too large"


# ---- Transfer-Encoding


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: CHUNKED",
        b"Transfer-Encoding: ,chunked ,, ",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    ],
)
def test_plain_chunked(fields):
    assert read_any(OK + fields + b"\r\n\r\n1\r\nx\r\n0\r\n\r\n")[1:] == [("data", b"x"), ("end", True)]


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        b'Transfer-Encoding: a;b="c,\\"d";e, chunked',
        b"Transfer-Encoding: chunked\r\nContent-Length: 9",
        b"Content-Length: 9\r\nTransfer-Encoding: chunked",
    ],
)
def test_chunked_but_not_reusable(fields):
    assert read_any(OK + fields + b"\r\n\r\n1\r\nx\r\n0\r\n\r\n")[1:] == [("data", b"x"), ("end", False)]


def test_chunked_in_http_1_0_is_faulty_framing():
    head = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert read_any(head + b"1\r\nx\r\n0\r\n\r\n")[1:] == [("data", b"x"), ("end", False)]


@pytest.mark.parametrize("coding", [b"gzip", b"identity", b"chunked, gzip", b"chunkedchunked", b"x-chunked"])
def test_a_last_coding_other_than_chunked_ends_with_the_connection(coding):
    data = OK + b"Transfer-Encoding: " + coding + b"\r\n\r\n5\r\nab"
    assert read_any(data, eof=True)[1:] == [("data", b"5\r\nab"), ("end", False)]


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding:",
        b"Transfer-Encoding: , ,",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked, gzip, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked;a=b",
        b"Transfer-Encoding: chunked gzip",
        b"Transfer-Encoding: \x0bchunked",
        b'Transfer-Encoding: "chunked"',
        b'Transfer-Encoding: gzip;a="b, chunked',
        b"Transfer-Encoding: identity\r\nContent-Length: 1",
    ],
)
def test_bad_transfer_encoding(fields):
    error_of(OK + fields + b"\r\n\r\n1\r\nx\r\n0\r\n\r\n")


# ---- the connection after the answer


@pytest.mark.parametrize(
    ("version", "fields", "reusable"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"connection: foo , CLOSE,bar\r\n", False),
        (b"1.1", b"Connection: foo\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closed, not-close\r\n", True),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection:\r\n\tclose\r\n", False),
        (b"1.1", b"Connection: ,\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Keep-Alive: timeout=5\r\n", False),
    ],
)
def test_reuse(version, fields, reusable):
    head = b"HTTP/" + version + b" 200 OK\r\n" + fields + b"Content-Length: 1\r\n\r\n"
    assert read_any(head + b"x")[-1] == ("end", reusable)


def test_the_next_answer_on_the_same_connection():
    parser = http1.Parser(method=b"POST")
    for n in range(3):
        body = b"x" * n
        events = parser.feed(OK + b"Content-Length: %d\r\n\r\n" % n + body)
        assert merged(events) == [("head", 200, [(b"content-length", b"%d" % n)])] + [("data", body)] * bool(n) + [
            ("end", True)
        ]
        assert parser.feed(CHUNKED + b"1\r\ny\r\n0\r\n\r\n")[1:] == [("data", b"y"), ("end", True)]


@pytest.mark.parametrize("surplus", [b"\r\n", b"x", OK + b"Content-Length: 0\r\n\r\n"])
@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 1\r\n\r\nx",
        CHUNKED + b"1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 204 x\r\n\r\n",
        CHUNKED + b"0\r\nA: b\r\n\r\n",
    ],
)
def test_surplus_bytes_end_the_reuse(answer, surplus):
    parser = http1.Parser()
    events = parser.feed(answer + surplus)
    assert events[-1] == ("end", False)
    assert [event[0] for event in events].count("head") == 1
    with pytest.raises(http1.Error, match="belong to no request"):
        parser.feed(b"H")


def test_nothing_more_is_read_after_a_close():
    parser = http1.Parser()
    assert parser.feed(OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n")[-1] == ("end", False)
    assert parser.feed(b"") == []
    with pytest.raises(http1.Error, match="belong to no request"):
        parser.feed(OK)


def test_an_error_stays():
    parser = http1.Parser()
    for _ in range(2):
        with pytest.raises(http1.Error, match=r"not an HTTP/1\.x answer"):
            parser.feed(b"nonsense")
    with pytest.raises(http1.Error, match=r"not an HTTP/1\.x answer"):
        parser.feed(b"")
    with pytest.raises(http1.Error, match=r"not an HTTP/1\.x answer"):
        parser.eof()


def test_an_error_has_the_events_before_it():
    parser = http1.Parser()
    with pytest.raises(http1.Error, match=r"7\.1") as caught:
        parser.feed(CHUNKED + b"2\r\nhi\r\nx")
    assert caught.value.events == [("head", 200, [(b"transfer-encoding", b"chunked")]), ("data", b"hi")]


# ---- the end of the connection


def test_a_body_without_a_length_ends_with_the_connection():
    assert read_any(OK + b"Connection: keep-alive\r\n\r\nany\r\n\r\nHTTP/1.1", eof=True) == [
        ("head", 200, [(b"connection", b"keep-alive")]),
        ("data", b"any\r\n\r\nHTTP/1.1"),
        ("end", False),
    ]
    assert read_any(b"HTTP/1.0 200 OK\r\n\r\n", eof=True) == [("head", 200, []), ("end", False)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "before the head"),
        (b"HTT", "before the head"),
        (OK, "before the head"),
        (b"HTTP/1.1 100 x\r\n\r\n", "before the head"),
        (OK + b"Content-Length: 2\r\n\r\n", "in the middle"),
        (OK + b"Content-Length: 2\r\n\r\nx", "in the middle"),
        (CHUNKED, "in the middle"),
        (CHUNKED + b"1", "in the middle"),
        (CHUNKED + b"1\r\nx", "in the middle"),
        (CHUNKED + b"1\r\nx\r\n", "in the middle"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", "in the middle"),
        (CHUNKED + b"1\r\nx\r\n0\r\nA: b\r\n", "in the middle"),
    ],
)
def test_an_answer_that_is_cut(data, text):
    assert text in error_of(data, eof=True)


def test_a_close_between_answers_is_nothing():
    parser = http1.Parser()
    assert parser.feed(OK + b"Content-Length: 0\r\n\r\n")[-1] == ("end", True)
    assert parser.eof() == []
    assert parser.eof() == []
    with pytest.raises(http1.Error):
        parser.feed(OK)


# ---- the face


def test_pieces_may_be_any_bytes_like_object():
    data = OK + b"Content-Length: 2\r\n\r\nhi"
    assert read([bytearray(data)]) == read([data]) == read([memoryview(data)])
    with pytest.raises(TypeError):
        http1.Parser().feed("HTTP/1.1")


def test_connect_is_refused():
    with pytest.raises(ValueError, match="CONNECT"):
        http1.Parser(method=b"CONNECT")


def test_a_chunk_in_one_read_is_one_piece():
    parser = http1.Parser()
    parser.feed(CHUNKED)
    assert parser.feed(b"3\r\nabc\r\n2\r\nde\r\n") == [("data", b"abc"), ("data", b"de")]
    assert parser.feed(b"") == []
