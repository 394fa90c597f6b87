"""The twin on h2: what it does beyond h2 itself."""

from __future__ import annotations

import pytest

from llmgen.wire import http2, reference


@pytest.fixture
def twin(peer):
    twin = reference.H2Connection()
    twin.open()
    assert twin.capacity() == 0
    twin.feed(peer.settings({3: 10}))
    twin.take()
    return twin


def raw(fields):
    return [(n.encode(), v.encode()) for n, v in fields]


def test_announces_what_the_native_client_announces(peer):
    preface = 24
    native = peer.frames(http2.Client().open()[preface:])
    twin = peer.frames(reference.H2Connection().open()[preface:])

    def values(payload):
        return {payload[i : i + 6] for i in range(0, len(payload), 6)}

    assert values(native[0].payload) <= values(twin[0].payload)
    assert native[1] == twin[1]


def test_an_exchange(peer, twin):
    assert twin.capacity() == 10
    sid = twin.submit("user", raw(peer.POST), b"body")
    assert (twin.users, twin.sent, twin.capacity()) == ({sid: "user"}, [], 9)
    assert [f.type for f in peer.frames(twin.take())] == [peer.HEADERS, peer.DATA]
    assert twin.sent == [sid]
    events = twin.feed(peer.headers(sid) + peer.data(sid, b"a") + peer.data(sid, b"b", end=True))
    assert events == [("headers", sid, [(b":status", b"200")], False), ("data", sid, b"ab", True)]
    assert (twin.users, twin.capacity()) == ({}, 10)


def test_streams_below_goaway_finish(peer, twin):
    one, three = (twin.submit(n, raw(peer.GET)) for n in range(2))
    assert twin.feed(peer.goaway(one) + peer.headers(one)) == [
        ("goaway", one, 0),
        ("reset", three, 7),
        ("headers", one, [(b":status", b"200")], False),
    ]
    assert twin.capacity() == 0
    with pytest.raises(http2.Error):
        twin.submit(2, raw(peer.GET))
    assert twin.feed(peer.data(one, b"x", end=True)) == [("data", one, b"x", True)]


@pytest.mark.parametrize(
    ("first", "reason"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "answered HTTP/1.1"), (bytes([0, 0, 8, 6]) + bytes(13), "not SETTINGS")],
)
def test_what_comes_first(peer, first, reason):
    twin = reference.H2Connection()
    twin.open()
    with pytest.raises(http2.Error, match=reason) as caught:
        twin.feed(first)
    assert caught.value.code == 1
    assert peer.frames(twin.take())[-1].code == 1


def test_compression_errors_have_their_code(peer, twin):
    sid = twin.submit(None, raw(peer.GET))
    with pytest.raises(http2.Error) as caught:
        twin.feed(peer.frame(peer.HEADERS, 4, sid, b"\x80"))
    assert caught.value.code == 9
    assert peer.frames(twin.take())[-1].code == 9


def test_other_errors_keep_theirs(peer, twin):
    twin.submit(None, raw(peer.GET))
    with pytest.raises(http2.Error) as caught:
        twin.feed(peer.frame(peer.PING, 0, 0, b"short"))
    assert caught.value.code == 6
    assert peer.frames(twin.take())[-1].code == 6


def test_bodies_wait_for_the_peers_windows_in_order(peer, twin):
    twin.feed(peer.settings({3: 10, 4: 10}))
    sids = [twin.submit(n, raw(peer.POST), bytes(15)) for n in range(2)]
    twin.take()
    assert twin.sent == []
    twin.feed(peer.window(sids[1], 5) + peer.window(sids[0], 5))
    assert [(f.sid, f.flags) for f in peer.frames(twin.take()) if f.type == peer.DATA] == [(sids[0], 1), (sids[1], 1)]
    assert twin.sent == sids


def test_an_early_answer_cancels_the_rest_of_the_body(peer, twin):
    twin.feed(peer.settings({4: 10}))
    sid = twin.submit(None, raw(peer.POST), bytes(15))
    twin.take()
    assert twin.feed(peer.headers(sid, [(":status", "413")], end=True))[0][3] is True
    assert [(f.type, f.code) for f in peer.frames(twin.take())] == [(peer.RST_STREAM, 8)]


def test_cancelling_and_the_end(peer, twin):
    one, three = (twin.submit(n, raw(peer.GET)) for n in range(2))
    twin.take()
    twin.reset(one)
    assert [(f.type, f.sid) for f in peer.frames(twin.take())] == [(peer.RST_STREAM, one)]
    assert twin.feed(peer.headers(one, end=True)) == []
    with pytest.raises(http2.Error):
        twin.reset(one)
    assert twin.eof() == [("eof", three)]


def test_the_peers_limit(peer, twin):
    twin.feed(peer.settings({3: 1}))
    twin.submit(None, raw(peer.GET))
    assert twin.capacity() == 0
    with pytest.raises(http2.Error, match="no more streams"):
        twin.submit(None, raw(peer.GET))
