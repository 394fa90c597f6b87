"""Server-sent events: the rules of WHATWG HTML 9.2 one by one, each whole, byte by byte and cut in two."""

import pytest

from llmgen.wire import sse


def events(stream: bytes, **options: int) -> tuple[list[sse.Event], bool]:
    """Events of the stream and close(), after seeing that every cutting gives the same."""
    results = []
    cuttings = [[stream], [stream[i : i + 1] for i in range(len(stream))]]
    cuttings += [[stream[:i], stream[i:]] for i in range(len(stream) + 1)]
    for pieces in cuttings:
        p = sse.Parser(**options)
        found = [event for piece in pieces for event in p.feed(piece)]
        results.append((found, p.close()))
    assert all(result == results[0] for result in results)
    return results[0]


def data(stream: bytes) -> list[str]:
    return [event.data for event in events(stream)[0]]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        # line ends
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\r\n\ndata: b\n\r\n", ["a", "b"]),
        (b"data: a\n\r\ndata: b\r\n\r", ["a", "b"]),
        (b"data: a\r\n\r\n\r\n\n\rdata: b\n\r", ["a", "b"]),
        (b"data:1\r\rdata:2\r\n\r\ndata:3\n\n", ["1", "2", "3"]),
        (b"data: a\x0bb\x0c\xc2\x85\xe2\x80\xa8c\n\n", ["a\x0bb\x0c\x85\u2028c"]),  # these end no line
        # byte order mark
        (b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n", ["1", "3"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata:1\n\ndata:2\n\ndata:3\n\n", ["2", "3"]),
        (b"\xef\xbb\xbf\n\ndata:1\n\n", ["1"]),
        (b"\xef\xbbdata:1\n\ndata:2\n\n", ["2"]),
        (b"\xefdata:1\n\ndata:2\n\n", ["2"]),
        # data
        (b"data:\n\ndata\ndata\n\ndata:test\n\n", ["", "\n", "test"]),
        (b"data: \n\n", [""]),
        (b"data:  a\n\n", [" a"]),
        (b"data:\ta\n\n", ["\ta"]),
        (b"data: a: b\n\n", ["a: b"]),
        (b"data: a\ndata:b\ndata:\ndata: c\n\n", ["a\nb\n\nc"]),
        (b"data:\xe2\x80\xa6\n\n", ["…"]),
        # other fields
        (b"Data: a\n\n data: a\n\ndata : a\n\ndatas: a\n\ndat: a\n\n", []),
        (b"foo: a\ndata: b\nbar\n: c\n\n", ["b"]),
        (b":\n\n: a\n\n::\n\n", []),
        (b"data: a\n:\xef\xbb\xbfignored\r\n:\rdata: b\n\n", ["a\nb"]),
        (
            b"data:1\n:\0\n:\r\ndata:2\n:" + b"x" * 2000 + b"\rdata:3\n:data:fail\r:" + b"x" * 50 + b"\ndata:4\n\n",
            ["1\n2\n3\n4"],
        ),
        (
            b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\n"
            b"da-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
            ["\0\n 2\n1\n3\n\n4"],
        ),
    ],
)
def test_data(stream: bytes, expected: list[str]) -> None:
    if len(stream) > 1000:  # cut in two everywhere would take long and show nothing more
        p = sse.Parser()
        assert [e.data for i in range(len(stream)) for e in p.feed(stream[i : i + 1])] == expected
        assert [e.data for e in sse.Parser().feed(stream)] == expected
    else:
        assert data(stream) == expected
        assert events(stream)[1] is False


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"\xff", "�"),
        (b"a\xc3", "a�"),
        (b"\xe2\x82x\xf0\x9f\x98", "�x�"),
        (b"\xed\xa0\x80", "���"),
        (b"\xc0\x80", "��"),
        ("ä😀".encode(), "ä😀"),
    ],
)
def test_invalid_utf8_is_replaced(sent: bytes, text: str) -> None:
    assert data(b"data: " + sent + b"\ndata: " + sent + b"\n\n") == [f"{text}\n{text}"]
    assert events(b"event: " + sent + b"\nid: " + sent + b"\ndata: x\n\n")[0] == [sse.Event(text, "x", text)]


def test_type() -> None:
    assert [e.type for e in events(b"event: a\ndata: x\n\ndata: x\n\nevent:\ndata: x\n\n")[0]] == [
        "a",
        "message",
        "message",
    ]
    assert [e.type for e in events(b"event: a\nevent: b\ndata: x\n\n")[0]] == ["b"]
    assert [e.type for e in events(b"event: a\ndata: x\nevent\n\n")[0]] == ["message"]
    assert [e.type for e in events(b"event: a\n\ndata: x\n\n")[0]] == ["message"]  # no data: no event, type forgotten
    assert [e.type for e in events(b"event: message\ndata: x\n\nevent:  b\ndata\n\n")[0]] == ["message", " b"]


def test_type_and_id_between_data_lines_that_grow_over_them() -> None:
    stream = b"id: 7\nevent: kind\ndata: a\nevent: other\ndata: " + b"b" * 40 + b"\nid: 8\ndata: c\n\n"
    assert events(stream)[0] == [sse.Event("other", "a\n" + "b" * 40 + "\nc", "8")]


def test_id_stays_until_the_next_one() -> None:
    stream = b"data: a\n\nid: 1\ndata: b\n\ndata: c\n\nid\ndata: d\n\nid: 2\ndata: e\n\nid:\ndata: f\n\n"
    assert [e.id for e in events(stream)[0]] == ["", "1", "1", "", "2", ""]


def test_id_of_a_block_without_data_counts() -> None:
    assert [e.id for e in events(b"id: 1\n\n\n: x\n\ndata: a\n\n")[0]] == ["1"]
    assert [e.id for e in events(b"id:  1\n\nid: 2\nid:  3\nevent: x\n\ndata: a\ndata: b\n\n")[0]] == [" 3"]
    assert [e.id for e in events(b"id: 1\n\nid\n\ndata: a\n\n")[0]] == [""]


def test_id_with_nul_is_ignored() -> None:
    assert [e.id for e in events(b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid: \0\n\ndata: c\n\n")[0]] == ["1", "1", "1"]


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        (b"retry: 3000", 3000),
        (b"retry:0", 0),
        (b"retry:007", 7),
        (b"retry: 10\nretry: 20", 20),
        (b"retry: 10\nretry: x", 10),
        (b"retry:", None),
        (b"retry", None),
        (b"retry:  1", None),
        (b"retry: -1", None),
        (b"retry: 1.0", None),
        (b"retry: 1000x", None),
        (b"retry: \xd9\xa1", None),  # a digit, but not an ASCII one
        (b"Retry: 1", None),
    ],
)
def test_retry(value: bytes, retry: int | None) -> None:
    for stream in (
        value + b"\ndata: a\n\ndata: b\n\n",
        b"data: a\n" + value + b"\n\ndata: b\n\n",
        value + b"\n\ndata: a\n\ndata: b\n\n",
    ):
        assert [e.retry for e in events(stream)[0]] == [retry, None]


def test_retry_of_a_hundred_digits_saturates() -> None:
    (event,), _ = events(b"retry: " + b"9" * 100 + b"\ndata: a\n\n")
    assert event.retry is not None
    assert 2**62 < event.retry < 2**63
    assert events(b"retry: " + b"9" * 100 + b"x\ndata: a\n\n")[0] == [sse.Event("message", "a")]


@pytest.mark.parametrize(
    ("rest", "dropped"),
    [
        (b"", False),
        (b"\n", False),
        (b": comment", False),
        (b": comment\n", False),
        (b"retry: 1\n", False),
        (b"id: 1\n", False),
        (b"foo\n", False),
        (b"data: x", True),
        (b"data: x\n", True),
        (b"data: x\r", True),
        (b"data: x\r\n", True),
        (b"data", True),
        (b"d", True),
        (b"data\n", True),
        (b"event: x\n", True),
        (b"id: 1\n: y\ndata: z\n", True),
    ],
)
def test_an_unfinished_last_event_is_dropped_and_told(rest: bytes, dropped: bool) -> None:
    assert events(rest) == ([], dropped)
    assert events(b"data: a\n\n" + rest) == ([sse.Event("message", "a")], dropped)
    assert events(b"data: a\r\n\r\n" + rest) == ([sse.Event("message", "a")], dropped)
    assert events(b"id: 1\n\n" + rest) == ([], dropped)


def test_close_with_half_a_byte_order_mark() -> None:
    assert events(b"\xef\xbb") == ([], True)
    assert events(b"\xef\xbb\xbf") == ([], False)


def test_after_close_a_new_stream_begins_and_the_last_id_is_kept() -> None:
    p = sse.Parser()
    assert p.feed(b"\xef\xbb\xbfid: 1\ndata: a\n\nevent: lost\ndata: lost\n") == [sse.Event("message", "a", "1")]
    assert p.close() is True
    assert p.feed(b"\xef\xbb\xbfdata: b\n\n") == [sse.Event("message", "b", "1")]
    assert p.close() is False


def test_an_event_is_given_at_its_cr_without_waiting_for_an_lf() -> None:
    p = sse.Parser()
    assert p.feed(b"data: a\r") == []
    assert p.feed(b"\n\r", 5) == [sse.Event("message", "a", t_ns=5)]
    assert p.feed(b"\n") == []
    assert p.feed(b"\n") == []
    assert p.feed(b"data: b\r") == []
    assert p.feed(b"\r", 7) == [sse.Event("message", "b", t_ns=7)]
    assert p.close() is False


def test_any_bytes_like_object_and_empty_reads() -> None:
    p = sse.Parser()
    assert p.feed(bytearray(b"data:")) == []
    assert p.feed(b"") == []
    assert p.feed(memoryview(b"xx a\n\nxx")[2:-2], t_ns=3) == [sse.Event("message", "a", "", None, 3)]
    with pytest.raises(TypeError):
        p.feed("data: a\n\n")  # type: ignore[arg-type]


# --- the bound on an event's size


def too_large(stream: bytes, limit: int, pieces: int) -> tuple[list[str], bool]:
    """Data of the events before the error, and whether there was one."""
    p = sse.Parser(max_event_bytes=limit)
    found: list[str] = []
    step = -(-len(stream) // pieces)
    try:
        for at in range(0, len(stream), step):
            found += [e.data for e in p.feed(stream[at : at + step])]
    except sse.Error as error:
        found += [e.data for e in error.events]
        with pytest.raises(sse.Error):
            p.feed(b"data: more\n\n")
        assert p.close() is True
        assert p.feed(b"data: fresh\n\n") == [sse.Event("message", "fresh")]
        return found, True
    return found, False


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 10**6])
@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: " + b"x" * 58 + b"\n\n", (["x" * 58], False)),  # a line of 64 bytes
        (b"data: a\n\ndata: " + b"x" * 59 + b"\n\n", (["a"], True)),
        (b"data: a\n\ndata: " + b"x" * 59, (["a"], True)),  # not even ended
        (b"x" * 65, ([], True)),
        (b"data: a\n\n" * 100, (["a"] * 100, False)),
        (b"data: a\n" * 8, ([], False)),  # 64 bytes with their line ends
        (b"data: a\n" * 9, ([], True)),
        (b"event: " + b"x" * 40 + b"\ndata: " + b"x" * 20 + b"\n\n", ([], True)),
        (b"foo: bar\n" * 100 + b"data: a\n\n", (["a"], False)),  # what is not kept is free
        (b": " + b"x" * 1000 + b"\ndata: a\n\n", (["a"], False)),
        (b": ping\n\n" * 100 + b": ping\n" * 100 + b"data: a\n\n", (["a"], False)),
        (b"id: 1\n\n" * 100 + b"data: a\n\n", (["a"], False)),
    ],
)
def test_bounded_event_size(stream: bytes, expected: tuple[list[str], bool], pieces: int) -> None:
    assert too_large(stream, 64, pieces) == expected


@pytest.mark.parametrize("limit", [0, -1, 2**31])
def test_a_limit_that_cannot_be(limit: int) -> None:
    with pytest.raises(ValueError, match="max_event_bytes"):
        sse.Parser(max_event_bytes=limit)


def test_large_events_within_the_limit() -> None:
    text = "x" * 900_000
    assert data_of_pieces(f"data: {text}\n\n".encode(), 1000) == [text]
    assert data_of_pieces(b"data: y\n" * 100_000 + b"\n", 333) == ["\n".join(["y"] * 100_000)]


def data_of_pieces(stream: bytes, size: int) -> list[str]:
    p = sse.Parser()
    return [e.data for at in range(0, len(stream), size) for e in p.feed(stream[at : at + size])]
