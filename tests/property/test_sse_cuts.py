"""Any cutting of the same bytes gives the same events, and those that the standard's text gives."""

import itertools
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgen.wire import sse

# a busy machine is no failure
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PIECES = st.sampled_from(
    [
        *[b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b":", b": ", b" ", b"\0"],
        *[
            b"data",
            b"data:",
            b"data: ",
            b"data: x\n",
            b"event",
            b"event: ",
            b"event: kind\n",
            b"id",
            b"id: ",
            b"id: 1\n",
        ],
        *[b"retry: ", b"retry: 5\n", b"12", b"x" * 20, b"foo", b"Data: "],
        *[b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xbf", b"\xff", b"\xe2\x82", "ä€😀".encode(), b"\xf0\x9f"],
    ]
)
STREAMS = st.lists(PIECES | st.binary(max_size=3), max_size=40).map(b"".join)


def standard(stream: bytes) -> list[sse.Event]:
    """The steps of "Parsing" and "Interpreting an event stream", on the whole stream as text."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    lines = re.split("\r\n|\n|\r", text)[:-1]
    found = []
    kind, buffer, last_id, retry = "", "", "", None
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if buffer:
                found.append(sse.Event(kind or "message", buffer[:-1], last_id, retry))
                retry = None
            kind = buffer = ""
        elif name == "data":
            buffer += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            retry = min(int(value), 2**63 - 1)
    return found


def fed(stream: bytes, cuts: list[int], limit: int = 1 << 20) -> tuple[list[sse.Event], bool, bool]:
    """Events, whether one was too large, and close()."""
    p = sse.Parser(max_event_bytes=limit)
    found: list[sse.Event] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    try:
        for start, stop in itertools.pairwise(edges):
            found += p.feed(stream[start:stop])
    except sse.Error as error:
        return found + error.events, True, p.close()
    return found, False, p.close()


@settings(UNTIMED, max_examples=400)
@given(STREAMS)
def test_agrees_with_the_standard(stream: bytes) -> None:
    assert fed(stream, []) == (standard(stream), False, fed(stream, [])[2])
    assert fed(stream, list(range(len(stream))))[0] == standard(stream)


@settings(UNTIMED, max_examples=400)
@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=10), st.just(1 << 20) | st.integers(6, 40))
def test_any_cutting_is_the_same(stream: bytes, cuts: list[int], limit: int) -> None:
    whole = fed(stream, [], limit)
    assert fed(stream, cuts, limit) == whole
    assert fed(stream, list(range(len(stream))), limit) == whole


@settings(UNTIMED)
@given(STREAMS)
def test_close_tells_of_an_event_that_a_blank_line_would_have_ended(stream: bytes) -> None:
    dropped = fed(stream, [])[2]
    ended = standard(stream + b"\n\n\n")
    if len(ended) > len(standard(stream)):
        assert dropped
