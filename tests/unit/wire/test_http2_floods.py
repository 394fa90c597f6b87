"""HTTP/2: what a peer may make us do or keep is bounded (RFC 9113 10.5)."""

from __future__ import annotations

import pytest

from llmgen.wire import http2

ENHANCE_YOUR_CALM = 11


def survived(peer, client, flood: bytes, most: int = 20000, read_answers: bool = True) -> int:
    """How often the flood is borne before the connection is ended with ENHANCE_YOUR_CALM."""
    for n in range(most):
        error = error_of(client, flood)
        if error is not None:
            assert error.code == ENHANCE_YOUR_CALM
            assert peer.frames(client.take())[-1].code == ENHANCE_YOUR_CALM
            return n
        if read_answers:
            client.take()
    pytest.fail("no end")


def error_of(client, data: bytes) -> http2.Error | None:
    try:
        client.feed(data)
    except http2.Error as error:
        return error
    return None


def test_floods_of_useless_frames(peer):
    for flood in [
        peer.ping(),
        peer.frame(peer.PING, peer.ACK, 0, bytes(8)),
        peer.settings(),
        peer.settings({4: 1}) + peer.settings({4: 2}),
        peer.frame(peer.PRIORITY, 0, 1, b"\0\0\0\x03\0"),
        peer.frame(0x99, 0, 0, b"x"),
        peer.window(0, 1),
        peer.window(1, 1),
        peer.data(1),
        peer.data(1, b"", pad=3),
    ]:
        client = http2.Client()
        client.open()
        client.feed(peer.settings())
        sid = client.request(peer.GET)
        client.feed(peer.headers(sid))
        assert 400 < survived(peer, client, flood) < 1100


def test_floods_on_closed_streams(peer, client):
    sid = client.request(peer.GET)
    client.reset(sid)
    assert 900 < survived(peer, client, peer.rst(sid)) < 1100
    client = http2.Client()
    client.open()
    client.feed(peer.settings())
    client.reset(client.request(peer.GET))
    assert 900 < survived(peer, client, peer.headers(1)) < 1100


def test_time_and_progress_are_patience(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid))
    for second in range(1, 31):
        for _ in range(900):
            client.feed(peer.ping(), t_ns=second * 10**9)
            client.take()
    for _ in range(5000):
        client.feed(peer.data(sid, b"token") + peer.ping(), t_ns=31 * 10**9)
        client.take()


def test_updates_for_what_we_sent_are_no_flood(peer, client):
    client.feed(peer.settings({3: 10000, 4: 2**20}))
    client.feed(peer.window(0, 2**30))
    sids = [client.request(peer.POST, bytes(1000)) for _ in range(3000)]
    client.take()
    client.feed(b"".join(peer.window(0, 1000) + peer.window(sid, 1000) for sid in sids))


def test_interim_answers_without_end(peer, client):
    sid = client.request(peer.GET)
    for _ in range(100):
        assert client.feed(peer.headers(sid, [(":status", "102")])) == []
    assert peer.resets(client, sid, peer.headers(sid, [(":status", "102")])) == ENHANCE_YOUR_CALM
    assert survived(peer, client, peer.headers(sid, [(":status", "102")])) < 1100


@pytest.mark.parametrize("part", [b"", b"\0", b"\0" * 16384])
def test_header_blocks_without_end(peer, client, part):
    sid = client.request(peer.GET)
    client.feed(peer.frame(peer.HEADERS, 0, sid, b"\x88"))
    assert survived(peer, client, peer.frame(peer.CONTINUATION, 0, sid, part)) <= 512


def test_answers_to_a_peer_that_does_not_read(peer, client):
    # one that sends enough else not to try our patience
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid))
    assert survived(peer, client, peer.data(sid, b"x") + peer.ping(), read_answers=False) <= 4096


def test_a_peer_that_reads_slowly_is_borne(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid))
    for _ in range(20000):
        client.feed(peer.data(sid, b"x") + peer.ping())
        client.take(17)


def test_resets_of_a_peer_that_has_stopped_reading(peer, client):
    client.feed(peer.settings({3: 10**6}))
    sids = [client.request(peer.GET) for _ in range(6000)]
    with pytest.raises(http2.Error) as caught:
        client.feed(b"".join(peer.data(sid, b"malformed") for sid in sids))
    assert caught.value.code == ENHANCE_YOUR_CALM
    assert client.open_streams == 0
