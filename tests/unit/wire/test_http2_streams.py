"""HTTP/2, streams: limits, ids, RST_STREAM, what may come on streams that are gone (RFC 9113 5.1)."""

from __future__ import annotations

import gc
import resource

import pytest

from llmgen.wire import http2

PROTOCOL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 1, 5, 6, 7, 8


def test_nothing_may_be_opened_before_the_peers_settings(peer):
    client = http2.Client()
    assert client.capacity == 0
    client.open()
    assert client.capacity == 0
    client.feed(peer.settings())
    assert client.capacity == 2**30  # every id there is


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_peers_limit(peer, client, limit):
    client.feed(peer.settings({3: limit}))
    sids = []
    for n in range(limit):
        assert client.capacity == limit - n
        sids.append(client.request(peer.GET))
    assert client.capacity == 0
    with pytest.raises(http2.Error, match="no more streams"):
        client.request(peer.GET)
    for sid in sids:
        client.feed(peer.headers(sid, end=True))
    assert client.capacity == limit


def test_a_limit_lowered_below_what_is_open(peer, client):
    sids = [client.request(peer.GET) for _ in range(4)]
    client.feed(peer.settings({3: 2}))
    for left, sid in zip([0, 0, 1, 2], sids, strict=True):
        client.feed(peer.headers(sid, end=True))
        assert client.capacity == left
    client.feed(peer.settings({3: 0}))
    assert client.capacity == 0
    client.feed(peer.settings({3: 5}))
    assert client.capacity == 5


def test_our_own_limit(peer):
    client = http2.Client(max_streams=2)
    client.open()
    client.feed(peer.settings({3: 100}))
    assert client.capacity == 2
    client.request(peer.GET)
    client.request(peer.GET)
    assert client.capacity == 0


def test_every_way_to_end_gives_the_place_back(peer, client):
    client.feed(peer.settings({3: 1}))
    for end in [
        lambda sid: client.feed(peer.headers(sid, end=True)),
        lambda sid: client.feed(peer.rst(sid)),
        lambda sid: client.feed(peer.data(sid, b"malformed")),
        lambda sid: client.reset(sid),
    ]:
        sid = client.request(peer.GET)
        assert client.capacity == 0
        end(sid)
        assert client.capacity == 1


def test_ids_are_odd_and_grow(peer, client):
    assert [client.request(peer.GET) for _ in range(4)] == [1, 3, 5, 7]


def test_ids_run_out(peer, client):
    client.next_sid = 2**31 - 3
    assert client.capacity == 2
    one, last = client.request(peer.GET), client.request(peer.GET)
    assert last == 2**31 - 1
    assert client.capacity == 0
    with pytest.raises(http2.Error, match="no stream ids"):
        client.request(peer.GET)
    events = client.feed(peer.headers(last, end=True) + peer.headers(one, end=True))
    assert [e[1] for e in events] == [last, one]
    assert client.capacity == 0


@pytest.mark.parametrize("code", [0, 1, 2, 8, 11, 0xFFFF])
def test_reset_by_the_peer(peer, client, code):
    sid = client.request(peer.GET)
    client.take()
    assert client.feed(peer.headers(sid) + peer.rst(sid, code))[1:] == [("reset", sid, code)]
    assert client.take() == b""


def test_a_refused_stream(peer, client):
    sid = client.request(peer.GET)
    assert client.feed(peer.rst(sid, REFUSED_STREAM)) == [("reset", sid, REFUSED_STREAM)]


@pytest.mark.parametrize("size", [0, 3, 5])
def test_rst_stream_of_another_size(peer, client, size):
    sid = client.request(peer.GET)
    assert peer.fails(client, peer.frame(peer.RST_STREAM, 0, sid, bytes(size))) == FRAME_SIZE_ERROR


@pytest.mark.parametrize("sid", [0, 2, 3, 99])
def test_rst_stream_of_idle_streams(peer, client, sid):
    client.request(peer.GET)
    assert peer.fails(client, peer.rst(sid)) == PROTOCOL_ERROR


def test_cancelling(peer, client):
    sid = client.request(peer.GET)
    client.take()
    client.reset(sid)
    assert peer.frames(client.take()) == [(peer.RST_STREAM, 0, sid, (8).to_bytes(4, "big"))]
    with pytest.raises(http2.Error):
        client.reset(sid)


def test_what_was_under_way_to_a_cancelled_stream_is_dropped_and_the_header_table_kept(peer, client):
    one, three = client.request(peer.GET), client.request(peer.GET)
    client.reset(one)
    client.take()
    fields = [(":status", "200"), ("x-request-id", "in the dynamic table")]
    late = (
        peer.headers(one, fields) + peer.data(one, b"x") + peer.headers(one, [("t", "v")], end=True) + peer.rst(one, 0)
    )
    assert client.feed(late) == []
    assert client.take() == b""
    events = client.feed(peer.headers(three, fields, end=True))
    assert events == [("headers", three, [(b":status", b"200"), (b"x-request-id", b"in the dynamic table")], True)]


def test_frames_behind_the_peers_own_reset(peer, client):
    one, three = client.request(peer.GET), client.request(peer.GET)
    client.feed(peer.rst(one))
    client.take()
    fields = [(":status", "200"), ("x", "y")]
    assert client.feed(peer.headers(one, fields)) == []
    assert client.feed(peer.data(one, b"x")) == []
    assert [(f.type, f.sid, f.code) for f in peer.frames(client.take())] == [(peer.RST_STREAM, one, STREAM_CLOSED)] * 2
    assert client.feed(peer.headers(three, fields))[0][2][1] == (b"x", b"y")


def test_thousands_of_streams_ended_in_any_order(peer, client):
    client.feed(peer.settings({3: 100000}))
    sids = [client.request(peer.GET) for _ in range(5000)]
    client.take()
    kept = sids[::7]
    for sid in sids:
        if sid % 7:
            client.feed(peer.rst(sid) if sid % 3 else peer.headers(sid, end=True))
    left = [sid for sid in sids if sid % 7 == 0]
    assert client.open_streams == len(left)
    more = [client.request(peer.GET) for _ in range(3000)]
    for sid in reversed(left + more):
        assert client.feed(peer.headers(sid) + peer.data(sid, b"%d" % sid, end=True))[1] == (
            "data",
            sid,
            b"%d" % sid,
            True,
        )
    assert client.open_streams == 0
    assert kept


def test_a_long_lived_stream_among_many_short_ones(peer, client):
    first = client.request(peer.GET)
    for _ in range(40000):  # more than are remembered
        sid = client.request(peer.GET)
        client.take()
        client.feed(peer.headers(sid, end=True))
    assert client.feed(peer.headers(first) + peer.data(first, b"still here", end=True))[1][2] == b"still here"
    # nobody remembers how stream 3 ended: dropped, with the window returned
    assert client.feed(peer.data(3, b"x")) == []
    assert peer.fails(client, peer.data(sid, b"x")) == STREAM_CLOSED


def test_requests_before_the_peers_settings_are_permitted(peer):
    client = http2.Client()
    client.open()
    sid = client.request(peer.POST, b"body")
    assert [f.type for f in peer.frames(client.take())] == [peer.HEADERS, peer.DATA]
    events = client.feed(peer.settings() + peer.headers(sid, end=True))
    assert [e[0] for e in events] == ["settings", "headers"]


def test_a_request_before_open_comes_behind_the_preface(peer):
    client = http2.Client()
    client.request(peer.GET)
    sent = client.open()
    assert sent.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert [f.type for f in peer.frames(sent[24:])] == [peer.SETTINGS, peer.WINDOW_UPDATE, peer.HEADERS]


def test_a_body_that_is_not_sent_yet_is_kept(peer, client):
    client.feed(peer.settings({4: 2**20}))
    sid = client.request(peer.POST, bytes(range(256)) * 400)
    out = client.take(1000)
    client.feed(peer.headers(sid, end=True))  # the answer is early: what is framed still goes out, whole
    out += client.take()
    data = b"".join(f.payload for f in peer.frames(out) if f.type == peer.DATA)
    assert data == (bytes(range(256)) * 400)[: len(data)]
    assert peer.frames(out)[-1].type == peer.RST_STREAM


def test_memory_is_given_back():
    def round_of(n: int) -> None:
        for _ in range(n):
            client = http2.Client()
            client.open()
            client.feed(bytes(3) + b"\x04" + bytes(5))
            for _ in range(200):
                client.request([(":method", "POST"), (":path", "/")], bytes(3000))
            client.take(50000)
            client.feed(bytes([0, 0, 1, 1, 0, 0, 0, 0, 1, 0x88]))
            client.reset(5)

    round_of(30)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    round_of(300)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 300 * 50  # a single buffer left behind by each would be more
