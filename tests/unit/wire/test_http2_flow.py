"""HTTP/2, flow control: the peer's windows and ours (RFC 9113 5.2, 6.9), bodies in due order."""

from __future__ import annotations

import pytest

from llmgen.wire import http2

PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, STREAM_CLOSED = 1, 3, 6, 5
MAX = 2**31 - 1


def sent_data(peer, client):
    """(stream, size, END_STREAM) of the DATA frames that the client sends now."""
    return [(f.sid, len(f.payload), f.flags & 1) for f in peer.frames(client.take()) if f.type == peer.DATA]


def content(peer, client, sid):
    return b"".join(f.payload for f in peer.frames(client.take()) if f.type == peer.DATA and f.sid == sid)


def test_a_body_within_the_windows(peer, client):
    body = bytes(range(256)) * 200
    sid = client.request(peer.POST, body)
    assert content(peer, client, sid) == body


def test_a_body_stops_at_the_connections_window_and_goes_on(peer, client):
    body = bytes(range(251)) * 400
    sid = client.request(peer.POST, body)
    first = content(peer, client, sid)
    assert len(first) == 65535
    assert client.unsent(sid) == len(body) - 65535
    client.feed(peer.window(0, 10))
    assert client.take() == b""  # the stream's window is used up as well
    client.feed(peer.window(sid, 20))
    second = content(peer, client, sid)
    assert len(second) == 10
    client.feed(peer.window(0, MAX - 65535) + peer.window(sid, len(body)))
    assert first + second + content(peer, client, sid) == body
    assert client.unsent(sid) == 0


def test_initial_window_of_zero_raised_later(peer, client):
    client.feed(peer.settings({4: 0}))
    sid = client.request(peer.POST, b"hello")
    assert sent_data(peer, client) == []
    client.feed(peer.settings({4: 3}))
    assert sent_data(peer, client) == [(sid, 3, 0)]
    client.feed(peer.settings({4: 100}))
    assert sent_data(peer, client) == [(sid, 2, 1)]


def test_a_window_lowered_below_what_was_sent_is_negative(peer, client):
    client.feed(peer.settings({4: 100}))
    sid = client.request(peer.POST, bytes(300))
    assert sent_data(peer, client) == [(sid, 100, 0)]
    client.feed(peer.settings({4: 40}))  # -60
    client.feed(peer.window(sid, 60))  # 0
    assert sent_data(peer, client) == []
    client.feed(peer.window(sid, 1))
    assert sent_data(peer, client) == [(sid, 1, 0)]
    client.feed(peer.settings({4: 0}))  # -40
    client.feed(peer.settings({4: 50}))  # 10
    assert sent_data(peer, client) == [(sid, 10, 0)]
    client.feed(peer.window(sid, 10**6))
    assert sent_data(peer, client) == [(sid, 189, 1)]


def test_a_window_lowered_before_the_body_was_framed(peer, client):
    client.feed(peer.settings({4: 100}))
    sid = client.request(peer.POST, bytes(300))
    client.feed(peer.settings({4: 0}))
    assert sent_data(peer, client) == []
    client.feed(peer.settings({4: 7}))
    assert sent_data(peer, client) == [(sid, 7, 0)]


def test_bodies_go_out_in_the_order_of_submission(peer, client):
    client.feed(peer.settings({4: MAX}))
    sids = [client.request(peer.POST, bytes(40000)) for _ in range(4)]
    order = sent_data(peer, client)
    for _ in range(3):
        client.feed(peer.window(0, 40000))
        order += sent_data(peer, client)
    assert [sid for sid, _, _ in order] == sorted(sid for sid, _, _ in order)
    assert [sid for sid, _, end in order if end] == sids
    assert sum(size for _, size, _ in order) == 160000


def test_a_blocked_stream_does_not_hold_up_others_and_keeps_its_place(peer, client):
    client.feed(peer.settings({4: 10}))
    one, three, five = (client.request(peer.POST, bytes(20)) for _ in range(3))
    assert sent_data(peer, client) == [(one, 10, 0), (three, 10, 0), (five, 10, 0)]
    client.feed(peer.window(five, 5) + peer.window(three, 10) + peer.window(one, 10))
    assert sent_data(peer, client) == [(one, 10, 1), (three, 10, 1), (five, 5, 0)]


def test_many_bodies_blocked_by_the_connection(peer, client):
    client.feed(peer.settings({4: MAX}))
    client.request(peer.POST, bytes(65535))
    sids = [client.request(peer.POST, bytes([n % 256]) * 100) for n in range(300)]
    client.take()
    for sid in sids[::3]:
        client.reset(sid)
    left = [sid for n, sid in enumerate(sids) if n % 3]
    client.feed(peer.window(0, 10**6))
    assert sent_data(peer, client) == [(sid, 100, 1) for sid in left]


def test_a_cancelled_stream_sends_no_more_of_its_body(peer, client):
    client.feed(peer.settings({4: 10}))
    sid = client.request(peer.POST, bytes(20))
    client.take()
    client.reset(sid)
    client.feed(peer.window(sid, 10))
    assert [f.type for f in peer.frames(client.take())] == [peer.RST_STREAM]


def test_requests_and_control_frames_share_one_take(peer, client):
    client.feed(peer.ping())
    client.request(peer.POST, b"a")
    client.request(peer.GET)
    types = [f.type for f in peer.frames(client.take())]
    assert sorted(types) == sorted([peer.PING, peer.HEADERS, peer.HEADERS, peer.DATA])


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_partial_writes(peer, client, most):
    body = bytes(range(256)) * 60
    client.feed(peer.ping())
    sids = [client.request(peer.POST, body) for _ in range(3)]
    out = b""
    while part := client.take(most):
        assert len(part) <= most
        out += part
    found = [f for f in peer.frames(out) if f.type == peer.DATA]
    for sid in sids:
        assert b"".join(f.payload for f in found if f.sid == sid) == body


def test_window_updates_by_zero(peer, client):
    sid = client.request(peer.GET)
    assert peer.resets(client, sid, peer.window(sid, 0)) == PROTOCOL_ERROR
    assert peer.fails(client, peer.window(0, 0)) == PROTOCOL_ERROR


def test_window_updates_beyond_the_largest(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.window(sid, MAX - 65535))
    assert peer.resets(client, sid, peer.window(sid, 1)) == FLOW_CONTROL_ERROR
    client.feed(peer.window(0, MAX - 65535))
    assert peer.fails(client, peer.window(0, 1)) == FLOW_CONTROL_ERROR


def test_settings_that_lift_a_window_beyond_the_largest(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.window(sid, MAX - 65535))
    assert peer.fails(client, peer.settings({4: 65536})) == FLOW_CONTROL_ERROR


def test_the_reserved_bit_of_an_increment(peer, client):
    assert client.feed(peer.window(0, 1 << 31 | 5)) == []
    assert peer.fails(client, peer.window(0, 1 << 31)) == PROTOCOL_ERROR


@pytest.mark.parametrize("size", [0, 3, 5])
def test_window_updates_of_another_size(peer, client, size):
    assert peer.fails(client, peer.frame(peer.WINDOW_UPDATE, 0, 0, bytes(size))) == FRAME_SIZE_ERROR


@pytest.mark.parametrize("sid", [2, 3, 99])
def test_window_updates_of_idle_streams(peer, client, sid):
    client.request(peer.GET)
    assert peer.fails(client, peer.window(sid, 1)) == PROTOCOL_ERROR


# ---------------------------------------------------------------------------------------------- our windows


def small(peer, **options) -> http2.Client:
    client = http2.Client(**options)
    client.open()
    client.feed(peer.settings() + peer.frame(peer.SETTINGS, peer.ACK))
    client.take()
    return client


def updates(peer, client):
    return [(f.sid, f.number) for f in peer.frames(client.take()) if f.type == peer.WINDOW_UPDATE]


def test_windows_are_topped_up_at_half(peer):
    client = small(peer, initial_window_size=1000, connection_window_size=100000)
    sid = client.request(peer.GET)
    client.take()
    client.feed(peer.headers(sid) + peer.data(sid, bytes(499)))
    assert updates(peer, client) == []
    client.feed(peer.data(sid, b"x"))
    assert updates(peer, client) == [(sid, 500)]
    for _ in range(98):
        client.feed(peer.data(sid, bytes(500)))
    assert updates(peer, client) == [(sid, 500)] * 98
    client.feed(peer.data(sid, bytes(500)))
    assert updates(peer, client) == [(0, 50000), (sid, 500)]


def test_padding_counts_for_both_windows(peer):
    client = small(peer, initial_window_size=1000, connection_window_size=65535)
    sid = client.request(peer.GET)
    client.take()
    client.feed(peer.headers(sid))
    for _ in range(2):
        client.feed(peer.data(sid, b"x", pad=248))  # 250 bytes each
    assert updates(peer, client) == [(sid, 500)]
    for _ in range(130):
        client.feed(peer.data(sid, b"", pad=255))
    assert sum(by for sid, by in updates(peer, client) if sid == 0) >= 65535 // 2


def test_data_of_dropped_streams_returns_the_connections_window(peer):
    client = small(peer, connection_window_size=65535)
    sid = client.request(peer.GET)
    client.reset(sid)
    client.take()
    returned = 0
    for _ in range(100):
        assert client.feed(peer.data(sid, bytes(10000), pad=5)) == []
        returned += sum(by for _, by in updates(peer, client))
    assert returned >= 100 * 10006 - 65535 // 2


def test_data_beyond_the_streams_window(peer):
    client = small(peer, initial_window_size=10, connection_window_size=100000, top_up=False)
    one, three = client.request(peer.GET), client.request(peer.GET)
    client.feed(peer.headers(one) + peer.headers(three) + peer.data(one, bytes(10)))
    client.take()
    assert peer.resets(client, one, peer.data(one, b"x")) == FLOW_CONTROL_ERROR
    assert client.feed(peer.data(three, bytes(10), end=True))[0][3] is True


def test_data_beyond_the_connections_window(peer):
    client = small(peer, connection_window_size=65535, top_up=False)
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid))
    for _ in range(65535 // 10000):
        client.feed(peer.data(sid, bytes(10000)))
    client.feed(peer.data(sid, bytes(5535)))
    assert client.feed(peer.data(sid, b"")) == []
    assert peer.fails(client, peer.data(sid, b"x")) == FLOW_CONTROL_ERROR


def test_a_smaller_window_binds_from_its_acknowledgement_on(peer):
    client = http2.Client(initial_window_size=10, top_up=False)
    client.open()
    client.feed(peer.settings())
    sid = client.request(peer.GET)
    client.take()
    client.feed(peer.headers(sid) + peer.data(sid, bytes(1000)))  # sent before the peer knew
    client.feed(peer.frame(peer.SETTINGS, peer.ACK))
    assert peer.resets(client, sid, peer.data(sid, b"x")) == FLOW_CONTROL_ERROR


@pytest.mark.parametrize("of_the_connection", [False, True])
def test_time_without_window_is_measured(peer, of_the_connection):
    window = 65535
    client = small(peer, initial_window_size=MAX if of_the_connection else window)
    sid = client.request(peer.GET)
    client.take()
    if of_the_connection:
        client = small(peer, connection_window_size=window)
        sid = client.request(peer.GET)
        client.take()

    def receive(size: int, t_ns: int) -> None:
        for at in range(0, size, 16000):
            client.feed(peer.data(sid, bytes(min(16000, size - at))), t_ns=t_ns)

    client.feed(peer.headers(sid))
    receive(40000, 1000)
    client.take()  # an update was written: the whole window is there again
    receive(window - 1, 2000)  # 48000 are returned at once, 17534 not yet
    client.feed(b"", t_ns=3000)
    client.take()
    assert client.blocked_ns == 0
    receive(window - 17534 - 1, 5000)
    assert client.feed(peer.data(sid, b"x"), t_ns=5000)  # used up, and the updates are not yet written
    assert client.blocked_ns == 0
    client.feed(b"", t_ns=9000)
    client.take()
    assert client.blocked_ns == 4000
    receive(window // 2, 20000)
    client.feed(b"", t_ns=30000)
    client.take()
    assert client.blocked_ns == 4000


def test_padded_data(peer, client):
    sid = client.request(peer.GET)
    events = client.feed(peer.headers(sid) + peer.data(sid, b"abc", pad=0) + peer.data(sid, b"def", pad=255, end=True))
    assert events[1:] == [("data", sid, b"abcdef", True)]


def test_padding_as_long_as_its_frame(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid))
    assert peer.fails(client, peer.frame(peer.DATA, peer.PADDED, sid, b"\x03\0\0")) == PROTOCOL_ERROR


def test_only_padding(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid))
    assert client.feed(peer.frame(peer.DATA, peer.PADDED, sid, b"\x02\0\0")) == []
    assert client.feed(peer.frame(peer.DATA, peer.PADDED | 1, sid, b"\0")) == [("data", sid, b"", True)]


def test_padded_data_without_room(peer, client):
    sid = client.request(peer.GET)
    client.feed(peer.headers(sid))
    assert peer.fails(client, peer.frame(peer.DATA, peer.PADDED, sid)) == FRAME_SIZE_ERROR


@pytest.mark.parametrize("sid", [0, 2, 3])
def test_data_on_streams_that_nobody_opened(peer, client, sid):
    client.request(peer.GET)
    assert peer.fails(client, peer.data(sid, b"x")) == PROTOCOL_ERROR
