"""HTTP/2, the server's side: what `llmgen serve` does with the same framing."""

from __future__ import annotations

import pytest

from llmgen.wire import http2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, REFUSED_STREAM = 1, 3, 5, 7
END_TO_END = [(":method", "POST"), (":scheme", "http"), (":path", "/v1"), (":authority", "h")]


def raw(fields):
    return [(n.encode(), v.encode()) for n, v in fields]


def test_opens_with_its_settings(peer):
    server = http2.Server(max_streams=5, initial_window_size=70000)
    settings, window = peer.frames(server.open())
    assert (settings.type, settings.flags) == (peer.SETTINGS, 0)
    assert (3).to_bytes(2, "big") + (5).to_bytes(4, "big") in settings.payload
    assert window.type == peer.WINDOW_UPDATE


def test_its_settings_come_before_its_acknowledgement(peer):
    server = http2.Server()  # not opened: a peer that is faster must not turn the order around
    server.feed(PREFACE + peer.settings())
    assert [(f.type, f.flags) for f in peer.frames(server.take())] == [(4, 0), (8, 0), (4, 1)]


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\x01"])
def test_another_preface(peer, start):
    server = http2.Server()
    server.open()
    assert peer.fails(server, start) == PROTOCOL_ERROR


def test_the_frame_behind_the_preface_must_be_settings(peer):
    server = http2.Server()
    server.open()
    assert peer.fails(server, PREFACE + peer.ping()) == PROTOCOL_ERROR


def test_a_request_and_its_answer(peer, server):
    events = server.feed(peer.headers(1, END_TO_END) + peer.data(1, b"ab") + peer.data(1, b"c", end=True))
    assert events == [("headers", 1, raw(END_TO_END), False), ("data", 1, b"abc", True)]
    server.respond(1, [(":status", "200")], end=False)
    server.send(1, b"token")
    server.send(1, b"", end=True)
    assert [(f.type, f.flags, f.payload) for f in peer.frames(server.take())[1:]] == [(0, 0, b"token"), (0, 1, b"")]
    assert server.open_streams == 0
    with pytest.raises(http2.Error):
        server.send(1, b"more")


def test_an_answer_before_the_request_is_complete(peer, server):
    server.feed(peer.headers(1, END_TO_END))
    server.respond(1, [(":status", "413")])
    assert server.open_streams == 1
    assert server.feed(peer.data(1, b"x", end=True)) == [("data", 1, b"x", True)]
    assert server.open_streams == 0


def test_interim_answers_and_trailers(peer, server):
    server.feed(peer.headers(1, END_TO_END, end=True))
    server.respond(1, [(":status", "103")], end=False)
    server.respond(1, [(":status", "200")], b"x", end=False)
    server.trailers(1, [("t", "v")])
    sent = [(f.type, f.flags & 1) for f in peer.frames(server.take())]
    assert sent == [(1, 0), (1, 0), (0, 0), (1, 1)]


def test_trailers_of_a_request(peer, server):
    events = server.feed(peer.headers(1, END_TO_END) + peer.data(1, b"x") + peer.headers(1, [("t", "v")], end=True))
    assert events[1:] == [("data", 1, b"x", False), ("trailers", 1, [(b"t", b"v")])]


@pytest.mark.parametrize(
    "fields",
    [
        END_TO_END[1:],
        [*END_TO_END[:1], *END_TO_END[2:]],
        [*END_TO_END[:2], *END_TO_END[3:]],
        [*END_TO_END, END_TO_END[0]],
        [*END_TO_END, (":status", "200")],
        [*END_TO_END, (":protocol", "x")],
        [("a", "b"), *END_TO_END],
        [*END_TO_END[:2], (":path", ""), END_TO_END[3]],
        [*END_TO_END, ("Upper", "x")],
        [*END_TO_END, ("connection", "close")],
        [*END_TO_END, ("te", "gzip")],
        [*END_TO_END, ("content-length", "5")],
        [(":method", "CONNECT"), *END_TO_END[1:]],
    ],
)
def test_malformed_requests(peer, server, fields):
    assert server.feed(peer.headers(1, fields, end=True)) == []
    sent = peer.frames(server.take())
    assert [(f.type, f.sid, f.code) for f in sent] == [(peer.RST_STREAM, 1, PROTOCOL_ERROR)]
    assert server.stream_reason
    assert server.feed(peer.headers(3, END_TO_END, end=True))[0][1] == 3


@pytest.mark.parametrize(
    "fields", [END_TO_END[:3], [(":method", "CONNECT"), (":authority", "h")], [*END_TO_END, ("te", "trailers")]]
)
def test_wellformed_requests(peer, server, fields):
    assert server.feed(peer.headers(1, fields, end=True)) == [("headers", 1, raw(fields), True)]


def test_ids_of_requests(peer, server):
    server.feed(peer.headers(5, END_TO_END))
    assert peer.fails(server, peer.headers(3, END_TO_END)) == PROTOCOL_ERROR


def test_even_ids_of_requests(peer, server):
    assert peer.fails(server, peer.headers(2, END_TO_END)) == PROTOCOL_ERROR


def test_frames_of_idle_streams(peer):
    for idle in [peer.data(1, b"x"), peer.rst(1), peer.window(1, 1), peer.headers(0), peer.data(0, b"")]:
        server = http2.Server()
        server.open()
        server.feed(PREFACE + peer.settings())
        assert peer.fails(server, idle) == PROTOCOL_ERROR


def test_frames_behind_end_stream(peer, server):
    server.feed(peer.headers(1, END_TO_END, end=True))
    server.take()
    assert peer.resets(server, 1, peer.data(1, b"x")) == STREAM_CLOSED
    server.feed(peer.headers(3, END_TO_END, end=True))
    server.take()
    assert peer.resets(server, 3, peer.headers(3, END_TO_END, end=True)) == STREAM_CLOSED
    server.feed(peer.headers(5, END_TO_END, end=True))
    server.respond(5, [(":status", "200")])
    assert peer.fails(server, peer.headers(5, END_TO_END, end=True)) == STREAM_CLOSED


def test_a_cancelled_request(peer, server):
    server.feed(peer.headers(1, END_TO_END, end=True))
    assert server.feed(peer.rst(1, 8)) == [("reset", 1, 8)]
    with pytest.raises(http2.Error):
        server.respond(1, [(":status", "200")])


def test_the_stream_limit_binds_from_its_acknowledgement_on(peer):
    server = http2.Server(max_streams=1)
    server.open()
    server.feed(PREFACE + peer.settings())
    server.take()
    assert len(server.feed(peer.headers(1, END_TO_END, end=True) + peer.headers(3, END_TO_END, end=True))) == 2
    server.feed(peer.frame(peer.SETTINGS, peer.ACK))
    assert server.feed(peer.headers(5, END_TO_END, end=True)) == []
    assert [(f.sid, f.code) for f in peer.frames(server.take())] == [(5, REFUSED_STREAM)]


def test_a_limit_lowered_at_run_time(peer, server):
    server.feed(peer.frame(peer.SETTINGS, peer.ACK))
    server.settings({3: 0})
    assert peer.frames(server.take()) == [(peer.SETTINGS, 0, 0, b"\0\x03\0\0\0\0")]
    assert len(server.feed(peer.headers(1, END_TO_END, end=True))) == 1
    server.feed(peer.frame(peer.SETTINGS, peer.ACK))
    assert server.feed(peer.headers(3, END_TO_END, end=True)) == []


def test_data_waits_for_the_peers_windows(peer, server):
    server.feed(peer.settings({4: 5}) + peer.headers(1, END_TO_END, end=True))
    server.take()
    server.respond(1, [(":status", "200")], end=False)
    for token in [b"abc", b"def", b"ghi"]:
        server.send(1, token)
    server.send(1, b"", end=True)
    assert server.unsent(1) == 6
    with pytest.raises(http2.Error, match="waiting"):
        server.trailers(1, [("t", "v")])
    assert [f.payload for f in peer.frames(server.take())[1:]] == [b"abc", b"de"]
    server.feed(peer.window(1, 1))
    sent = peer.frames(server.take())
    server.feed(peer.window(1, 100))
    sent += peer.frames(server.take())
    assert b"".join(f.payload for f in sent) == b"fghi"
    assert [f.flags for f in sent] == [0] * (len(sent) - 1) + [1]
    assert server.open_streams == 0


def test_streams_take_turns(peer, server):
    server.feed(
        peer.settings({4: 2**20}) + peer.headers(1, END_TO_END, end=True) + peer.headers(3, END_TO_END, end=True)
    )
    server.take()
    for sid in [1, 3]:
        server.respond(sid, [(":status", "200")], bytes(100000))
    order = [f.sid for f in peer.frames(server.take()) if f.type == peer.DATA]
    assert order == [1, 3, 1, 3]
    server.feed(peer.window(0, 2**20))
    order = [f.sid for f in peer.frames(server.take()) if f.type == peer.DATA]
    assert order[:6] == [1, 3, 1, 3, 1, 3]


def test_goaway_drops_what_is_above(peer, server):
    server.feed(peer.headers(1, END_TO_END, end=True) + peer.headers(3, END_TO_END))
    server.goaway(1, 0)
    server.take()
    assert server.open_streams == 1
    late = peer.data(3, b"x", end=True) + peer.headers(5, [*END_TO_END, ("x", "y")]) + peer.data(5, b"z")
    assert server.feed(late) == []
    assert server.take() == b""
    server.respond(1, [(":status", "200")])
    assert [f.sid for f in peer.frames(server.take())] == [1]


def test_faults_as_bytes(peer, server):
    server.feed(peer.headers(1, END_TO_END, end=True))
    server.reset(1, 11)
    server.raw(b"anything")
    out = server.take()
    assert out.endswith(b"anything")
    assert peer.frames(out[: -len(b"anything")])[-1].code == 11
    assert server.open_streams == 0


def test_windows_by_hand(peer):
    server = http2.Server(initial_window_size=10, top_up=False)
    server.open()
    server.feed(PREFACE + peer.settings() + peer.frame(peer.SETTINGS, peer.ACK))
    server.feed(peer.headers(1, END_TO_END) + peer.data(1, bytes(10)))
    server.take()
    server.window_update(1, 5)
    assert [(f.sid, f.number) for f in peer.frames(server.take())] == [(1, 5)]
    server.feed(peer.data(1, bytes(5)))
    assert peer.resets(server, 1, peer.data(1, b"x")) == FLOW_CONTROL_ERROR
