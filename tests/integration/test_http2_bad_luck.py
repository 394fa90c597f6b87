"""What HTTP/2 servers do wrong in a run: each request has one end, and no tight loop opens connections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmgen.columns import Flag
from odd_http2 import EVENTS, PIECES, Http2Peer, good, http2
from odd_servers import Handler, OddServer, Peer
from running import Offer, statuses

# 40 requests in 0.8 s. Tries after a failure are 10, 20, 40 … 640 ms apart: about seven, and one for the look before.
LOAD = {"target.http": "2", "load.rate": 50.0, "load.requests": 40}
MOST_CONNECTIONS = 12


def later(handler: Handler) -> Handler:
    """A good server for the look before the load, then `handler`."""
    first = http2()

    def handle(peer: Peer) -> None:
        (first if peer.number == 0 else handler)(peer)

    return handle


def goaway(peer: Http2Peer) -> None:
    peer.h2.close_connection(last_stream_id=0)


def close(peer: Http2Peer) -> None:
    peer.over = True


def hang_up(peer: Peer) -> None:
    peer.socket.recv(65536)


SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PING_ON_A_STREAM = b"\0\0\x08\x06\0\0\0\0\x01pingping"  # a connection error (RFC 9113 6.7)


def break_rules(peer: Peer) -> None:
    peer.socket.recv(65536)
    peer.send(SETTINGS + PING_ON_A_STREAM)
    peer.until_closed()


def speak_http1(peer: Peer) -> None:
    peer.socket.recv(65536)
    peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (http2(greeting=goaway), "eof"),
        (http2(greeting=close), "eof"),
        (hang_up, "protocol_error"),  # SETTINGS must be the first that it says
        (Peer.reset, "reset"),
        (break_rules, "protocol_error"),
        (speak_http1, "protocol_error"),
    ],
    ids=["GOAWAY at once", "closes after SETTINGS", "closes", "resets", "breaks the rules", "HTTP/1.1"],
)
def test_a_server_that_serves_nothing(offer: Offer, handler: Handler, status: str) -> None:
    with OddServer(later(handler)) as server:
        result = offer(server.url, **LOAD)
        assert server.accepted <= MOST_CONNECTIONS
    # what is closed with our greeting unread resets, and a reset may come before we know that we are connected
    also = {"eof": {"reset"}, "reset": {"connect_error"}}
    assert set(statuses(result.requests)) <= {status, *also.get(status, ())}
    assert (result.requests["connection"] < MOST_CONNECTIONS).all()


def test_a_server_without_settings(offer: Offer) -> None:
    with OddServer(later(Peer.until_closed)) as server:
        result = offer(server.url, **LOAD, **{"client.timeouts.connect": 0.3})
        assert server.accepted <= MOST_CONNECTIONS
    assert statuses(result.requests) == {"protocol_error": 40}


def test_refused_streams_cost_no_connection(offer: Offer) -> None:
    def refuse(peer: Http2Peer, stream: int) -> None:
        peer.h2.reset_stream(stream, 7) if peer.posts % 2 else good(peer, stream)

    with OddServer(http2(refuse)) as server:
        result = offer(server.url, **LOAD)
        assert server.accepted == 2
    assert statuses(result.requests) == {"ok": 20, "unprocessed": 20}


def test_refused_streams_go_out_once_more_on_request(offer: Offer) -> None:
    def refuse_first(peer: Http2Peer, stream: int) -> None:
        peer.h2.reset_stream(stream, 7) if peer.posts <= 10 else good(peer, stream)

    with OddServer(http2(refuse_first)) as server:
        result = offer(server.url, **LOAD, **{"client.resend_unprocessed": True, "client.connections": 1})
    rows = result.requests
    again = (rows["flags"] & int(Flag.resent)) != 0
    left = statuses(rows).get("unprocessed", 0)  # refused a second time: it is sent once more, not for ever
    assert statuses(rows)["ok"] == len(rows) - left
    assert again.sum() + left == 10
    assert again.sum() >= 5
    served = again & (rows["status"] == 0)
    assert (rows["first_token"][served] > rows["due"][served]).all()


def test_streams_that_are_reset_in_the_middle(offer: Offer) -> None:
    def cut(peer: Http2Peer, stream: int) -> None:
        peer.h2.send_headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
        peer.h2.send_data(stream, PIECES[0])
        peer.h2.reset_stream(stream, 2)  # INTERNAL_ERROR

    with OddServer(http2(cut)) as server:
        result = offer(server.url, **LOAD)
        assert server.accepted == 2
    assert statuses(result.requests) == {"reset": 40}
    assert (result.requests["events"] == 1).all()


def test_goaway_after_every_tenth_answer(offer: Offer) -> None:
    """The streams up to its last id are answered to the end; the next request opens a connection."""

    def ten(peer: Http2Peer, stream: int) -> None:
        good(peer, stream)
        if peer.posts == 10:
            peer.h2.close_connection(last_stream_id=stream)
            peer.over = True

    with OddServer(http2(ten)) as server:
        result = offer(server.url, **LOAD)
        assert server.accepted <= 1 + 8
    rows = result.requests
    assert set(statuses(rows)) <= {"ok", "unprocessed"}
    ok = rows["status"] == 0
    assert ok.sum() >= 30
    assert (rows["events"][ok] == EVENTS).all()
    assert (np.bincount(rows["connection"][ok]) <= 10).all()


def test_one_stream_at_a_time(offer: Offer) -> None:
    """MAX_CONCURRENT_STREAMS 1 and one connection: waiting is queueing, in order."""

    def one(peer: Http2Peer) -> None:
        peer.h2.update_settings({3: 1})

    with OddServer(http2(greeting=one)) as server:
        result = offer(server.url, **{**LOAD, "load.rate": float("inf"), "client.connections": 1})
        assert server.accepted == 2
    rows = np.sort(result.requests, order="index")
    assert statuses(rows) == {"ok": 40}
    assert (rows["send"][1:] >= rows["end"][:-1]).all()
    assert (rows["acquired"][1:] > rows["dispatch"][1:]).all()


def test_a_stall_ends_by_timeout_and_its_connection_lives_on(offer: Offer) -> None:
    def stall(peer: Http2Peer, stream: int) -> None:
        if peer.posts == 1:
            peer.h2.send_headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
            peer.h2.send_data(stream, PIECES[0])
        else:
            good(peer, stream)

    flags: dict[str, Any] = {**LOAD, "client.timeouts.idle": 0.3}
    with OddServer(http2(stall)) as server:
        result = offer(server.url, **flags)
        assert server.accepted == 2
    assert statuses(result.requests) == {"ok": 39, "idle_timeout": 1}
    assert len(np.unique(result.requests["connection"])) == 1
