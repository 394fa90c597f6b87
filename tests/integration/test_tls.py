"""Runs over TLS: what must work, and what must be refused before any header with a secret is sent."""

from __future__ import annotations

import datetime
import ssl
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from llmgen.columns import Status
from llmgen.errors import ConfigError, TargetError
from llmgen.simulator import Endpoint
from odd_http2 import EVENTS, http2
from odd_servers import DONE, FINISH, GOOD, Handler, OddServer, Peer, always, answering, stream, token
from running import Offer, statuses

SECRET = "Bearer s3cr3t-0f-the-tests"
TOKENS = [token("a "), token("b "), token("c ")]


class Authority:
    """A certificate authority; contexts of servers that it vouches for; PEM files for --ca, --cert and --key."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.cert, self.key = str(folder / "client.pem"), str(folder / "client.key")
        client = self.authority.issue_cert("client@example.org")
        client.cert_chain_pems[0].write_to_path(self.cert)
        client.private_key_pem.write_to_path(self.key)

    def context(self, *names: str, alpn: tuple[str, ...] = (), **issue: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("localhost", "127.0.0.1")), **issue).configure_cert(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def asking_for_a_certificate(self, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = self.context()
        context.maximum_version = newest
        context.verify_mode = ssl.CERT_REQUIRED
        self.authority.configure_trust(context)
        return context

    def expired(self) -> ssl.SSLContext:
        return self.context(not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))

    def old(self) -> ssl.SSLContext:
        context = self.context()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL 3 has no TLS 1.1 above level 0
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def secured(context: ssl.SSLContext, handler: Handler) -> Handler:
    """`handler` behind TLS; a connection whose handshake fails has no requests."""

    def handle(peer: Peer) -> None:
        peer.socket = context.wrap_socket(peer.socket, server_side=True)
        handler(peer)

    return handle


def url(server: OddServer) -> str:
    return server.url.replace("http://127.0.0.1", "https://localhost")


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The flag that adds a credential to every request."""
    monkeypatch.setenv("TEST_SECRET", SECRET)
    return {"target.headers": {"authorization": "env:TEST_SECRET"}}


def told(server: OddServer) -> list[str]:
    """Requests that carried the secret."""
    with server.lock:
        return [f"{r.method} {r.path}" for r in server.requests if r.header("authorization") == SECRET]


# -- what works -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_http1_over_tls(offer: Offer, authority: Authority, secret: dict[str, Any], newest: ssl.TLSVersion) -> None:
    context = authority.context(alpn=("http/1.1",))
    context.maximum_version = newest
    with OddServer(secured(context, always(GOOD))) as server:
        result = offer(url(server), **{"target.ca": authority.ca, **secret})
    rows = result.requests
    assert statuses(rows) == {"ok": 20}
    assert (rows["events"] == 5).all()
    assert (rows["output_tokens"] == 3).all()
    opened = rows[rows["connect_start"] >= 0]
    assert (opened["secured"] > opened["connected"]).all()
    assert len(told(server)) == 21  # all, and the question for models
    detail = result._run.info["workers_detail"][0]
    assert detail["tls_handshakes"] == len(np.unique(rows["connection"]))
    assert SECRET.split()[1] not in "".join(p.read_text() for p in result.directory.glob("*.json*"))


def test_every_token_of_a_record_has_its_time(offer: Offer, authority: Authority) -> None:
    """A TLS record has the stamp of the read that brought its last byte, never that of an earlier one."""
    release = threading.Event()

    def answer(peer: Peer, _: Any) -> None:
        whole = stream(*TOKENS, FINISH, DONE)
        for at in range(0, len(whole), 50):  # each a record of its own, cut at any place of an event
            peer.send(whole[at : at + 50])
            release.wait(0.002)

    with OddServer(secured(authority.context(), answering(answer))) as server:
        result = offer(url(server), **{"target.ca": authority.ca, "load.requests": 3})
    assert statuses(result.requests) == {"ok": 3}
    assert result.events is not None
    for row in range(3):
        times = result.events["t"][result.events["request"] == row]
        assert len(times) == 4
        assert (np.diff(times) >= 0).all()


def test_a_client_certificate(offer: Offer, authority: Authority) -> None:
    with OddServer(secured(authority.asking_for_a_certificate(), always(GOOD))) as server:
        flags = {"target.ca": authority.ca, "target.cert": authority.cert, "target.key": authority.key}
        assert statuses(offer(url(server), **flags).requests) == {"ok": 20}


def test_looking_away_is_recorded(offer: Offer, authority: Authority) -> None:
    with OddServer(secured(authority.expired(), always(GOOD))) as server:
        result = offer(url(server), **{"target.insecure": True})
    assert statuses(result.requests) == {"ok": 20}
    assert result._run.info["insecure"] is True


def test_later_handshakes_resume(offer: Offer, authority: Authority) -> None:
    """Every answer closes its connection; each connection after the first few uses the ticket of one before."""

    def answer(peer: Peer, _: Any) -> None:
        peer.send(GOOD.replace(b"transfer-encoding", b"connection: close\r\ntransfer-encoding", 1))
        peer.socket.unwrap()

    with OddServer(secured(authority.context(), answering(answer))) as server:
        flags = {"target.ca": authority.ca, "load.rate": 50.0}
        result = offer(url(server), **flags)
    assert statuses(result.requests) == {"ok": 20}
    detail = result._run.info["workers_detail"][0]
    assert detail["tls_handshakes"] == 20
    assert 0 < detail["tls_resumed"] < 20


@pytest.mark.parametrize("close_notify", [True, False])
def test_an_answer_that_ends_with_its_connection(offer: Offer, authority: Authority, close_notify: bool) -> None:
    """Without close_notify nobody knows whether it was cut (RFC 8446 6.1)."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    body = head + b"".join(TOKENS) + DONE

    def answer(peer: Peer, _: Any) -> None:
        peer.send(body)
        if close_notify:
            peer.socket.unwrap()
        peer.socket.close()

    with OddServer(secured(authority.context(), answering(answer))) as server:
        result = offer(url(server), **{"target.ca": authority.ca, "load.requests": 5})
    assert statuses(result.requests) == ({"ok": 5} if close_notify else {"eof": 5})


@pytest.mark.parametrize("http", ["auto", "2"])
def test_http2_over_tls(offer: Offer, authority: Authority, secret: dict[str, Any], http: str) -> None:
    context = authority.context(alpn=("h2", "http/1.1"))
    with OddServer(secured(context, http2())) as server:
        flags = {"target.ca": authority.ca, "target.http": http, "load.requests": 200}
        result = offer(url(server), **flags, **secret)
    rows = result.requests
    assert statuses(rows) == {"ok": 200}
    assert (rows["events"] == EVENTS).all()
    assert len(np.unique(rows["stream"])) == 200
    assert len(np.unique(rows["connection"])) == 1


# -- what is refused before the load ----------------------------------------------------------------------------------


Refusal = tuple[Callable[[Authority], ssl.SSLContext], str]
REFUSALS: dict[str, Refusal] = {
    "expired": (lambda a: a.expired(), "expired"),
    "another host": (lambda a: a.context("other.example"), "mismatch"),
    "unknown authority": (lambda a: _unknown(), "--ca"),
    "no client certificate": (lambda a: a.asking_for_a_certificate(), "--cert"),
    "no client certificate (1.2)": (lambda a: a.asking_for_a_certificate(ssl.TLSVersion.TLSv1_2), "--cert"),
    "TLS 1.1": (lambda a: a.old(), "TLS 1.2"),
}


def _unknown() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("http", ["auto", "2"])
def test_refused(offer: Offer, authority: Authority, secret: dict[str, Any], case: str, http: str) -> None:
    make, words = REFUSALS[case]
    context = make(authority)
    context.set_alpn_protocols(["h2"] if http == "2" else ["http/1.1"])
    handler = http2() if http == "2" else always(GOOD)
    with OddServer(secured(context, handler)) as server:
        with pytest.raises(TargetError, match=words) as error:
            offer(url(server), **{"target.ca": authority.ca, "target.http": http, **secret})
        assert server.accepted == 1, "one look"
        assert server.requests == []
    assert SECRET not in str(error.value)


def test_a_server_without_http2(offer: Offer, authority: Authority, secret: dict[str, Any]) -> None:
    """ALPN offers h2 alone; a server that knows it not refuses the handshake, or goes on without ALPN."""
    for alpn in (("http/1.1",), ()):
        with OddServer(secured(authority.context(alpn=alpn), always(GOOD))) as server:
            with pytest.raises(TargetError, match=r"HTTP/2|TLS failed"):
                offer(url(server), **{"target.ca": authority.ca, "target.http": "2", **secret})
            assert server.requests == []


def test_cleartext_http2_at_a_server_without_it(offer: Offer, secret: dict[str, Any]) -> None:
    """It gets HTTP/2's preface, which HTTP/1.1 calls a bad request, and no header of ours."""
    received: list[bytes] = []

    def handle(peer: Peer) -> None:
        received.append(peer.socket.recv(65536))
        peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    with OddServer(handle) as server, pytest.raises(TargetError, match="does not speak HTTP/2"):
        offer(server.url, **{"target.http": "2", **secret})
    assert received[0].startswith(b"PRI * HTTP/2.0\r\n")
    assert b"s3cr3t" not in received[0]


def test_a_server_without_tls(offer: Offer, authority: Authority, secret: dict[str, Any]) -> None:
    with OddServer(always(GOOD)) as server:
        with pytest.raises(TargetError, match=r"TLS failed|is this port https"):
            offer(url(server), **{"target.ca": authority.ca, "client.timeouts.connect": 0.5, **secret})
        assert server.requests == []


def test_a_handshake_that_stalls(offer: Offer, authority: Authority, secret: dict[str, Any]) -> None:
    with (
        OddServer(lambda peer: peer.until_closed()) as server,
        pytest.raises(TargetError, match="handshake did not end within the connect timeout"),
    ):
        offer(url(server), **{"target.ca": authority.ca, "client.timeouts.connect": 0.3, **secret})


def test_an_authority_that_is_no_certificate(offer: Offer, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing\n")
    with OddServer(always(GOOD)) as server, pytest.raises(ConfigError, match="PEM"):
        offer(url(server), **{"target.ca": str(tmp_path / "ca.pem")})


# -- what changes after the look --------------------------------------------------------------------------------------


def turning(good: ssl.SSLContext, then: Handler, looks: int) -> Handler:
    """A good server for so many connections, which preflight takes; `then` for the load's."""

    def handle(peer: Peer) -> None:
        (secured(good, always(GOOD)) if peer.number < looks else then)(peer)

    return handle


@pytest.mark.parametrize("case", ["expired", "another host", "unknown authority", "TLS 1.1"])
def test_a_server_that_turns_bad(offer: Offer, authority: Authority, secret: dict[str, Any], case: str) -> None:
    """Each request ends as one tls_error, and the secret stays here."""
    bad = REFUSALS[case][0](authority)
    looks = 2  # the first without the secret, since TLS 1.3 asks for certificates late
    with OddServer(turning(authority.context(), secured(bad, always(GOOD)), looks)) as server:
        result = offer(url(server), **{"target.ca": authority.ca, **secret})
        assert server.accepted == looks + 20
    assert statuses(result.requests) == {"tls_error": 20}
    assert (result.requests["secured"] < 0).all()
    assert told(server) == ["GET /v1/models"]
    assert result.exit_code == 5


def test_a_server_that_begins_to_ask_for_a_certificate(offer: Offer, authority: Authority) -> None:
    asking = secured(authority.asking_for_a_certificate(), always(GOOD))
    with OddServer(turning(authority.context(), asking, 1)) as server:
        result = offer(url(server), **{"target.ca": authority.ca})
        assert server.posts == []
    # the reset of the socket may overtake TLS's alert
    assert set(statuses(result.requests)) <= {"tls_error", "reset"}
    assert Status.tls_error in result.requests["status"]


def test_handshakes_that_stall(offer: Offer, authority: Authority) -> None:
    """The connect timeout holds for the handshake, too."""
    with OddServer(turning(authority.context(), lambda peer: peer.until_closed(), 1)) as server:
        result = offer(url(server), **{"target.ca": authority.ca, "client.timeouts.connect": 0.3})
    rows = result.requests
    assert statuses(rows) == {"tls_error": 20}
    assert (rows["connected"] >= 0).all()
    assert (rows["secured"] < 0).all()
    assert (rows["end"] - rows["connect_start"] >= 0.3e9).all()


def test_handshakes_are_no_tokens_that_waited(offer: Offer, serve: Callable[..., Endpoint], tmp_path: Path) -> None:
    certificate = str(tmp_path / "server.pem")
    url = serve(tls=True, write_cert=certificate).url
    result = offer(url, **{"target.ca": certificate, "target.http": "1.1", "client.preconnect": 60})
    drain = result.summary.client.drain_lag_us
    assert drain is not None
    # 60 connections were secured, each with at least one read; beside the reads with a body there are those of heads
    assert drain.n < int(result.requests["reads"].sum()) + len(result.requests) + 40
    assert result.summary.requests.succeeded == len(result.requests)
