"""HTTP/2, the connection as a whole: preface, SETTINGS, PING, GOAWAY, frame sizes (RFC 9113 3.4, 4, 5.4, 6)."""

from __future__ import annotations

import hpack
import pytest

from llmgen.wire import http2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 1, 3, 6


def test_opens_with_preface_settings_and_the_largest_window(peer):
    first = http2.Client().open()
    assert first.startswith(PREFACE)
    settings, window = peer.frames(first[len(PREFACE) :])
    assert (settings.type, settings.flags, settings.sid) == (peer.SETTINGS, 0, 0)
    entries = [settings.payload[at : at + 6] for at in range(0, len(settings.payload), 6)]
    values = {int.from_bytes(e[:2], "big"): int.from_bytes(e[2:], "big") for e in entries}
    assert values == {2: 0, 4: 2**31 - 1, 6: 65536}
    assert (window.type, window.sid, window.number) == (peer.WINDOW_UPDATE, 0, 2**31 - 1 - 65535)


def test_opens_once(client):
    assert client.open() == b""


@pytest.mark.parametrize("cut", [1, 3, 5, 8, 9, 40])
def test_an_http1_answer_is_named(cut):
    client = http2.Client()
    client.open()
    answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    with pytest.raises(http2.Error, match=r"answered HTTP/1\.1") as caught:  # noqa: PT012
        client.feed(answer[:cut])
        client.feed(answer[cut:])
    assert caught.value.code == PROTOCOL_ERROR


def test_the_first_frame_must_be_settings(peer):
    for first in [peer.ping(), peer.headers(1), peer.window(0, 1), peer.goaway(0), peer.frame(99)]:
        client = http2.Client()
        client.open()
        assert peer.fails(client, first) == PROTOCOL_ERROR


def test_the_first_settings_must_not_be_an_acknowledgement(peer):
    client = http2.Client()
    client.open()
    assert peer.fails(client, peer.frame(peer.SETTINGS, peer.ACK)) == PROTOCOL_ERROR


def test_settings_are_told_and_acknowledged_at_once(peer):
    client = http2.Client()
    client.open()
    assert not client.ready
    assert client.feed(peer.settings({3: 7, 4: 1000, 0x77: 5})) == [("settings", {3: 7, 4: 1000, 0x77: 5})]
    assert client.ready
    assert peer.frames(client.take()) == [(peer.SETTINGS, peer.ACK, 0, b"")]


def test_an_acknowledgement_is_silent(peer, client):
    assert client.feed(peer.frame(peer.SETTINGS, peer.ACK)) == []
    assert client.take() == b""


@pytest.mark.parametrize(
    ("flags", "sid", "payload", "code"),
    [
        (0, 0, b"12345", FRAME_SIZE_ERROR),
        (0, 0, b"1234567", FRAME_SIZE_ERROR),
        (1, 0, b"123456", FRAME_SIZE_ERROR),
        (0, 1, b"", PROTOCOL_ERROR),
        (1, 1, b"", PROTOCOL_ERROR),
    ],
)
def test_malformed_settings(peer, client, flags, sid, payload, code):
    assert peer.fails(client, peer.frame(peer.SETTINGS, flags, sid, payload)) == code


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({2: 1}, PROTOCOL_ERROR),  # a server must not permit itself to push
        ({2: 2}, PROTOCOL_ERROR),
        ({4: 2**31}, FLOW_CONTROL_ERROR),
        ({4: 2**32 - 1}, FLOW_CONTROL_ERROR),
        ({5: 16383}, PROTOCOL_ERROR),
        ({5: 2**24}, PROTOCOL_ERROR),
        ({5: 0}, PROTOCOL_ERROR),
    ],
)
def test_settings_out_of_range(peer, client, values, code):
    assert peer.fails(client, peer.settings(values)) == code


@pytest.mark.parametrize("values", [{2: 0}, {4: 0}, {4: 2**31 - 1}, {5: 16384}, {5: 2**24 - 1}, {6: 0}, {8: 9}, {1: 0}])
def test_settings_at_their_limits(peer, client, values):
    assert client.feed(peer.settings(values)) == [("settings", values)]


def test_the_peers_frame_size_is_kept(peer, client):
    client.feed(peer.settings({4: 2**20}))
    client.feed(peer.window(0, 2**20))
    client.take()
    client.request(peer.POST, bytes(40000))
    sizes = [len(f.payload) for f in peer.frames(client.take()) if f.type == peer.DATA]
    assert sizes == [16384, 16384, 7232]
    client.feed(peer.settings({5: 20000}))
    client.take()
    client.request(peer.POST, bytes(40000))
    assert [len(f.payload) for f in peer.frames(client.take()) if f.type == peer.DATA] == [20000, 20000]


def test_a_large_header_block_is_continued(peer, client):
    decoder = hpack.Decoder(max_header_list_size=200000)
    client.request([*peer.GET, ("x-long", "~" * 40000)])
    first, *rest = peer.frames(client.take())
    assert (first.type, first.flags) == (peer.HEADERS, peer.END_STREAM)
    assert [f.type for f in rest] == [peer.CONTINUATION] * len(rest)
    assert [f.flags for f in rest] == [0] * (len(rest) - 1) + [peer.END_HEADERS]
    assert all(len(f.payload) <= 16384 for f in [first, *rest])
    fields = decoder.decode(b"".join(f.payload for f in [first, *rest]), raw=True)
    assert [tuple(f) for f in fields][-1] == (b"x-long", b"~" * 40000)


def test_a_block_that_fills_its_frame_exactly(peer, client):
    # '~' takes 13 bits: such text is sent plain, so that a character more is a byte more
    overhead = len(http2.header_block([("x", "~" * 16000)])) - 16000
    for size in range(16384 - 3, 16384 + 4):
        fields = [("x", "~" * (size - overhead))]
        block = http2.header_block(fields)
        assert len(block) == size
        client.request(fields)
        sent = peer.frames(client.take())
        assert len(sent) == (1 if size <= 16384 else 2)
        assert b"".join(f.payload for f in sent) == block


def test_a_shrunken_header_table_is_acknowledged_in_the_next_block(peer, client):
    # hpack's decoder insists on it (RFC 9113 4.3.1)
    decoder = hpack.Decoder()
    client.feed(peer.settings({1: 4096}) + peer.settings({1: 100}))
    decoder.max_allowed_table_size = 100
    client.take()
    for _ in range(2):
        client.request(peer.GET)
        assert decoder.decode(peer.frames(client.take())[0].payload) == peer.GET
    assert decoder.header_table_size <= 100


def test_a_header_table_changed_twice_between_blocks(peer, client):
    client.feed(peer.settings({1: 0}) + peer.settings({1: 4096}))
    client.take()
    client.request(peer.GET)
    block = peer.frames(client.take())[0].payload
    assert block[0] == 0x20  # the smallest size in between must be signalled, then the final one (RFC 7541 4.2)
    assert block[1] >> 5 == 1
    assert hpack.Decoder().decode(block) == peer.GET


def test_ping_is_answered(peer, client):
    assert client.feed(peer.ping(b"abcdefgh")) == [("ping",)]
    assert peer.frames(client.take()) == [(peer.PING, peer.ACK, 0, b"abcdefgh")]


def test_the_answer_to_a_ping_is_not(peer, client):
    client.ping(b"12345678")
    assert peer.frames(client.take()) == [(peer.PING, 0, 0, b"12345678")]
    assert client.feed(peer.frame(peer.PING, peer.ACK, 0, b"12345678")) == []
    assert client.take() == b""


@pytest.mark.parametrize(("sid", "size", "code"), [(0, 7, 6), (0, 9, 6), (0, 0, 6), (1, 8, 1)])
def test_malformed_ping(peer, client, sid, size, code):
    assert peer.fails(client, peer.frame(peer.PING, 0, sid, bytes(size))) == code


def test_goaway_ends_the_streams_above_and_no_other(peer, client):
    one, three, five = (client.request(peer.GET) for _ in range(3))
    client.take()
    assert client.feed(peer.goaway(three, 2)) == [("goaway", three, 2), ("reset", five, 7)]
    assert client.capacity == 0
    with pytest.raises(http2.Error):
        client.request(peer.GET)
    answers = peer.headers(three, end=True) + peer.headers(one) + peer.data(one, b"x", end=True)
    assert [e[:2] for e in client.feed(answers)] == [("headers", three), ("headers", one), ("data", one)]
    assert client.open_streams == 0


def test_goaway_may_only_go_down(peer, client):
    sids = [client.request(peer.GET) for _ in range(3)]
    client.feed(peer.goaway(2**31 - 1))
    assert client.open_streams == 3
    assert client.feed(peer.goaway(sids[1])) == [("goaway", sids[1], 0), ("reset", sids[2], 7)]
    assert client.feed(peer.goaway(sids[0])) == [("goaway", sids[0], 0), ("reset", sids[1], 7)]
    assert peer.fails(client, peer.goaway(sids[1])) == PROTOCOL_ERROR


def test_frames_of_streams_above_goaway_are_dropped(peer, client):
    client.request(peer.GET)
    three = client.request(peer.GET)
    client.feed(peer.goaway(1))
    fields = [(":status", "200"), ("x-new", "entry of the dynamic table")]
    assert client.feed(peer.headers(three, fields) + peer.data(three, b"late") + peer.rst(three)) == []
    events = client.feed(peer.headers(1, fields, end=True))
    assert events[0][2][1] == (b"x-new", b"entry of the dynamic table")


@pytest.mark.parametrize(("sid", "size", "code"), [(0, 7, 6), (0, 0, 6), (1, 8, 1)])
def test_malformed_goaway(peer, client, sid, size, code):
    assert peer.fails(client, peer.frame(peer.GOAWAY, 0, sid, bytes(size))) == code


def test_goaway_with_debug_data(peer, client):
    assert client.feed(peer.frame(peer.GOAWAY, 0, 0, bytes(4) + (11).to_bytes(4, "big") + b"why")) == [
        ("goaway", 0, 11)
    ]


def test_our_goaway_refuses_requests_and_lets_answers_in(peer, client):
    sid = client.request(peer.GET)
    client.goaway(0)
    assert peer.frames(client.take())[-1][:1] == (peer.GOAWAY,)
    with pytest.raises(http2.Error):
        client.request(peer.GET)
    assert [e[0] for e in client.feed(peer.headers(sid, end=True))] == ["headers"]


def test_unknown_frames_and_flags_are_ignored(peer, client):
    sid = client.request(peer.GET)
    unknown = peer.frame(0x0A, 0xFF, 0, b"x" * 100) + peer.frame(0xFE, 0, sid, b"") + peer.frame(0xBE, 1, 77, b"y")
    answer = peer.frame(peer.HEADERS, peer.END_HEADERS | 0xC2, sid, peer.block(peer.OK))
    data = peer.frame(peer.DATA, peer.END_STREAM | 0xF6, sid, b"hi")
    assert [e[0] for e in client.feed(unknown + answer + unknown + data)] == ["headers", "data"]
    assert client.feed(peer.frame(peer.PING, 0xFE, 0, bytes(8))) == [("ping",)]
    assert client.feed(peer.frame(peer.SETTINGS, 0xFE, 0, b"")) == [("settings", {})]


def test_the_reserved_bit_is_ignored(peer, client):
    sid = client.request(peer.GET)
    events = client.feed(peer.frame(peer.HEADERS, 5, sid | 1 << 31, peer.block(peer.OK)))
    assert [e[:2] for e in events] == [("headers", sid)]


@pytest.mark.parametrize("type", [*range(10), 0x42])
def test_a_frame_above_our_frame_size(peer, client, type):
    client.request(peer.GET)
    assert peer.fails(client, (16385).to_bytes(3, "big") + bytes([type, 0, 0, 0, 0, 1])) == FRAME_SIZE_ERROR


def test_a_larger_frame_size_that_we_announced(peer):
    client = http2.Client(max_frame_size=20000)
    assert (5).to_bytes(2, "big") + (20000).to_bytes(4, "big") in client.open()
    client.feed(peer.settings())
    sid = client.request(peer.GET)
    events = client.feed(peer.headers(sid) + peer.data(sid, bytes(20000), end=True))
    assert events[1] == ("data", sid, bytes(20000), True)
    assert peer.fails(client, (20001).to_bytes(3, "big") + bytes([0, 0, 0, 0, 0, 1])) == FRAME_SIZE_ERROR


def test_push_is_refused(peer, client):
    sid = client.request(peer.GET)
    push = (2).to_bytes(4, "big") + peer.block(peer.GET)
    assert peer.fails(client, peer.frame(peer.PUSH_PROMISE, peer.END_HEADERS, sid, push)) == PROTOCOL_ERROR


def test_events_before_an_error_are_not_lost(peer, client):
    sid = client.request(peer.GET)
    with pytest.raises(http2.Error) as caught:
        client.feed(peer.headers(sid) + peer.data(sid, b"token") + peer.frame(peer.PING, 0, 0, b"short"))
    assert caught.value.events == [("headers", sid, [(b":status", b"200")], False), ("data", sid, b"token", False)]
    assert client.open_streams == 0


def test_the_peer_closes(peer, client):
    one, three = client.request(peer.GET), client.request(peer.POST, b"body")
    assert client.eof() == [("eof", one), ("eof", three)]
    assert client.capacity == 0
    with pytest.raises(http2.Error):
        client.request(peer.GET)


def test_the_peer_closes_before_its_settings():
    client = http2.Client()
    client.open()
    with pytest.raises(http2.Error, match="before its SETTINGS"):
        client.eof()
