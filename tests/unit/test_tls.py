"""TLS sessions against an independent peer: Python's own server object, in memory."""

from __future__ import annotations

import datetime
import ipaddress
import random
import ssl
import warnings
from pathlib import Path

import pytest
import trustme

from llmgen.errors import ConfigError
from llmgen.tls import Endpoint, Session, make_context

HOST = "llm.example"


class Server:
    """A server's end: takes encrypted bytes, answers with encrypted bytes."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.done = False
        self.error: ssl.SSLError | None = None

    def give(self, data: bytes) -> None:
        if data:
            self.incoming.write(data)
        if not self.done and self.error is None:
            try:
                self.tls.do_handshake()
                self.done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self.error = error

    def read(self) -> bytes:
        got = b""
        try:
            while part := self.tls.read(16384):
                got += part
        except ssl.SSLWantReadError:
            pass
        return got


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def server_context(authority: trustme.CA, *names: str, expired: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    authority.issue_cert(*(names or (HOST,)), not_after=past if expired else None).configure_cert(context)
    return context


def client_context(ca: str | None = None, alpn: tuple[str, ...] = (), *, insecure: bool = False) -> ssl.SSLContext:
    return make_context(insecure=insecure, ca=ca, cert=None, key=None, alpn=alpn)


def pump(client: Session, server: Server, piece: int = 1 << 20) -> bool:
    """Carries bytes both ways until neither has more; whether the client's handshake is done."""
    done = client.do_handshake()
    while True:
        to_server = client.take()
        server.give(to_server)
        to_client = server.outgoing.read()
        if not to_server and not to_client:
            return done
        for at in range(0, len(to_client), piece):
            client.feed(to_client[at : at + piece])
            done = client.do_handshake()


def connect(
    context: ssl.SSLContext, server: ssl.SSLContext, host: str = HOST, piece: int = 1 << 20
) -> tuple[Session, Server]:
    pair = Session(Endpoint(context, host)), Server(server)
    assert pump(*pair, piece), pair[0].error
    assert pair[1].done
    return pair


def answer(client: Session, server: Server, data: bytes) -> bytes:
    """What the client reads when the server writes `data`."""
    server.tls.write(data)
    client.feed(server.outgoing.read())
    return drain(client)


def drain(client: Session, cap: int = 16384) -> bytes:
    got = b""
    while part := client.read(cap):
        got += part
    return got


def refusal(context: ssl.SSLContext, server: ssl.SSLContext, host: str = HOST) -> str:
    """The error of a handshake that must fail; nothing can be written after it."""
    client, peer = Session(Endpoint(context, host)), Server(server)
    assert not pump(client, peer)
    assert not client.established
    assert client.error is not None
    with pytest.raises(RuntimeError):
        client.send(b"secret")
    assert client.take() == b""
    return client.error


# Handshakes that succeed.


def test_handshake_and_data_both_ways(authority: trustme.CA, ca: str) -> None:
    client, server = connect(client_context(ca), server_context(authority))
    assert (client.version, client.alpn, client.reused, client.error) == ("TLSv1.3", None, False, None)
    assert client.cipher
    assert client.send(b"POST / HTTP/1.1\r\n\r\n", b"", b"body")
    server.give(client.take())
    assert server.read() == b"POST / HTTP/1.1\r\n\r\nbody"
    assert answer(client, server, b"data: x\n\n") == b"data: x\n\n"
    assert client.read() is None


def test_tls_1_2(authority: trustme.CA, ca: str) -> None:
    context = server_context(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = connect(client_context(ca), context)
    assert client.version == "TLSv1.2"
    assert answer(client, server, b"x" * 100_000) == b"x" * 100_000


@pytest.mark.parametrize(
    ("offered", "chosen", "expected"),
    [
        (["h2", "http/1.1"], ["h2"], "h2"),
        (["h2", "http/1.1"], ["http/1.1"], "http/1.1"),
        (["h2"], [], None),
        ([], ["h2"], None),
    ],
)
def test_alpn(authority: trustme.CA, ca: str, offered: list[str], chosen: list[str], expected: str | None) -> None:
    context = server_context(authority)
    if chosen:
        context.set_alpn_protocols(chosen)
    client, _ = connect(client_context(ca, tuple(offered)), context)
    assert client.alpn == expected


def test_server_name_is_sent_and_addresses_are_checked(authority: trustme.CA, ca: str) -> None:
    context = server_context(authority, HOST, "127.0.0.1", "::1")
    names: list[str | None] = []
    context.sni_callback = lambda tls, name, ctx: names.append(name)
    for host in (HOST, "127.0.0.1", str(ipaddress.ip_address("::1"))):
        connect(client_context(ca), context, host)
    assert names == [HOST, None, None]
    assert "192.0.2.1" in refusal(client_context(ca), context, "192.0.2.1")


def test_client_certificate(authority: trustme.CA, ca: str, tmp_path: Path) -> None:
    identity = authority.issue_cert("client.example")
    cert, key, both = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "both.pem"
    identity.cert_chain_pems[0].write_to_path(cert)
    identity.private_key_pem.write_to_path(key)
    identity.private_key_and_cert_chain_pem.write_to_path(both)
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    for files in ((str(cert), str(key)), (str(both), None)):
        ours = make_context(insecure=False, ca=ca, cert=files[0], key=files[1], alpn=[])
        _, server = connect(ours, context)
        peer = server.tls.getpeercert()
        assert peer is not None
        assert ("DNS", "client.example") in peer["subjectAltName"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("piece", [1, 2, 5, 7, 1000])
def test_fragmentation(authority: trustme.CA, ca: str, piece: int, version: ssl.TLSVersion) -> None:
    context = server_context(authority)
    context.maximum_version = version
    client, server = connect(client_context(ca), context, piece=piece)
    for size in (1, 100, 16384, 40_000):
        server.tls.write(b"y" * size)
        cipher, got = server.outgoing.read(), b""
        for at in range(0, len(cipher), piece):
            client.feed(cipher[at : at + piece])
            got += drain(client)
        assert got == b"y" * size


def test_data_comes_with_the_read_that_completes_its_record(authority: trustme.CA, ca: str) -> None:
    client, server = connect(client_context(ca), server_context(authority))
    drain(client)
    server.tls.write(b"first")
    one = server.outgoing.read()
    server.tls.write(b"second")
    two = server.outgoing.read()
    client.feed(one + two[:-1])
    assert (client.read(), client.read()) == (b"first", None)
    client.feed(two[-1:])
    assert (client.read(), client.read()) == (b"second", None)


def test_any_cutting_and_any_buffer_give_the_same_bytes(authority: trustme.CA, ca: str) -> None:
    rng = random.Random(1)
    client, server = connect(client_context(ca), server_context(authority))
    for _ in range(100):
        parts = [rng.randbytes(rng.choice([0, 1, 5, 100, 5000, 16384, 20_000])) for _ in range(rng.randrange(6))]
        for part in parts:
            server.tls.write(part)
        cipher, got, cap = server.outgoing.read(), b"", rng.choice([1, 7, 1000, 16384, 65536])
        while cipher:
            size = rng.choice([1, 4, 6, 100, 3000, 20_000])
            client.feed(cipher[:size])
            cipher = cipher[size:]
            if rng.random() < 0.8:
                got += drain(client, cap)
        assert got + drain(client, cap) == b"".join(parts)


def test_parts_of_a_write_share_records(authority: trustme.CA, ca: str) -> None:
    client, server = connect(client_context(ca), server_context(authority))
    parts = [b"head" * 10, b"a" * 16384, b"b" * 50_000, b"", b"tail", b"c" * 16_000, b"d" * 900]
    assert client.send(*parts)
    cipher, records, at = client.take(), [], 0
    while at < len(cipher):
        records.append(int.from_bytes(cipher[at + 3 : at + 5], "big"))
        at += 5 + records[-1]
    server.give(cipher)
    assert server.read() == b"".join(parts)
    assert len(records) == -(-sum(map(len, parts)) // 16384)


def test_partial_sends(authority: trustme.CA, ca: str) -> None:
    client, server = connect(client_context(ca), server_context(authority))
    for i in range(5):
        client.send(b"%d" % i * 3000)
        while piece := client.take(most=1000):
            server.give(piece)
    assert server.read() == b"".join(b"%d" % i * 3000 for i in range(5))


# Handshakes that fail: each says why.


def test_expired(authority: trustme.CA, ca: str) -> None:
    assert "certificate has expired" in refusal(client_context(ca), server_context(authority, expired=True))


def test_wrong_host(authority: trustme.CA, ca: str) -> None:
    error = refusal(client_context(ca), server_context(authority, "other.example"))
    assert HOST in error
    assert "mismatch" in error


def test_unknown_authority(ca: str) -> None:
    error = refusal(client_context(ca), server_context(trustme.CA()))
    assert error.startswith(f"the certificate of {HOST} is not accepted: ")
    assert "issuer" in error


def test_system_authorities_do_not_know_ours(authority: trustme.CA) -> None:
    assert "certificate" in refusal(client_context(), server_context(authority))


def test_insecure_accepts_all_of_them(authority: trustme.CA) -> None:
    context = client_context(insecure=True)
    connect(context, server_context(authority, "other.example", expired=True))
    connect(context, server_context(trustme.CA()))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_missing_client_certificate(authority: trustme.CA, ca: str, version: ssl.TLSVersion) -> None:
    context = server_context(authority)
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    client, server = Session(Endpoint(client_context(ca), HOST)), Server(context)
    pump(client, server)
    assert server.error is not None
    if client.error is None:  # TLS 1.3: our handshake is done before the server has looked
        assert client.read() == b""
    assert client.error is not None
    assert "client certificate" in client.error


def test_old_server(authority: trustme.CA, ca: str) -> None:
    context = server_context(authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert "at least 1.2" in refusal(client_context(ca), context)


def test_no_protocol_in_common(authority: trustme.CA, ca: str) -> None:
    context = client_context(ca, ("h2",))
    client = Session(Endpoint(context, HOST))
    client.do_handshake()
    client.take()
    client.feed(b"\x15\x03\x03\x00\x02\x02\x78")  # alert: fatal, no_application_protocol
    assert not client.do_handshake()
    assert client.error is not None
    assert "ALPN" in client.error


@pytest.mark.parametrize("cut", [1, 3, 5, 100])
def test_peer_without_tls(ca: str, cut: int) -> None:
    client = Session(Endpoint(client_context(ca), HOST))
    client.do_handshake()
    text = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    for at in range(0, len(text), cut):
        client.feed(text[at : at + cut])
        client.do_handshake()
    assert client.error is not None
    assert client.error.startswith("the peer does not speak TLS")


def test_handshake_that_stalls_and_then_ends(ca: str) -> None:
    client = Session(Endpoint(client_context(ca), HOST))
    assert not client.do_handshake()
    assert client.take()
    assert not client.do_handshake()
    assert client.take() == b""
    assert not client.end()
    assert client.error == "the connection ended during the TLS handshake"
    assert not client.do_handshake()


# Ends.


def test_close_notify(authority: trustme.CA, ca: str) -> None:
    client, server = connect(client_context(ca), server_context(authority))
    server.tls.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    client.feed(server.outgoing.read())
    assert (client.read(), client.closed) == (b"last", False)
    assert (client.read(), client.read()) == (b"", b"")
    assert client.closed
    assert client.end()
    assert client.error is None
    client.goodbye()
    server.incoming.write(client.take())
    server.tls.unwrap()


def test_cut_off(authority: trustme.CA, ca: str) -> None:
    client, server = connect(client_context(ca), server_context(authority))
    assert answer(client, server, b"data") == b"data"
    assert not client.end()
    assert client.error == "the connection ended without TLS's close_notify"
    assert client.read() == b""
    assert not client.closed


def test_our_close_notify(authority: trustme.CA, ca: str) -> None:
    client, server = connect(client_context(ca), server_context(authority))
    client.goodbye()
    server.give(client.take())
    assert server.tls.read(10) == b""


def test_changed_bytes_are_an_error_and_an_alert(authority: trustme.CA, ca: str) -> None:
    client, server = connect(client_context(ca), server_context(authority))
    drain(client)
    server.tls.write(b"data")
    cipher = bytearray(server.outgoing.read())
    cipher[-1] ^= 1
    client.feed(cipher)
    assert client.read() == b""
    assert client.error is not None
    assert "BAD" in client.error or "MAC" in client.error.upper()
    server.give(client.take())
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        server.tls.read(10)
    assert not client.send(b"more")


# Tickets.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("goodbye", [True, False])
def test_sessions_are_resumed(authority: trustme.CA, ca: str, version: ssl.TLSVersion, goodbye: bool) -> None:
    context = server_context(authority)
    context.maximum_version = version
    endpoint = Endpoint(client_context(ca), HOST)
    for number in range(4):
        client, server = Session(endpoint), Server(context)
        assert pump(client, server)
        assert client.reused is (number > 0)
        assert answer(client, server, b"x") == b"x"
        if goodbye:
            client.goodbye()
            server.give(client.take())
        del client, server
    assert (endpoint.handshakes, endpoint.resumed) == (4, 3)


def test_a_refused_ticket_is_replaced(authority: trustme.CA, ca: str) -> None:
    endpoint = Endpoint(client_context(ca), HOST)
    reused = []
    old, new = server_context(authority), server_context(authority)
    for context in (old, old, new, new):  # a restarted server knows no ticket of before
        client, server = Session(endpoint), Server(context)
        assert pump(client, server)
        reused.append(client.reused)
        answer(client, server, b"x")
    assert reused == [False, True, False, True]


def test_server_without_tickets(authority: trustme.CA, ca: str) -> None:
    context = server_context(authority)
    context.num_tickets = 0
    endpoint = Endpoint(client_context(ca), HOST)
    for _ in range(2):
        client, server = Session(endpoint), Server(context)
        assert pump(client, server)
        answer(client, server, b"x")
        client.goodbye()
    assert (endpoint.ticket, endpoint.handshakes, endpoint.resumed) == (None, 2, 0)


def test_both_ends_are_ours(authority: trustme.CA, ca: str) -> None:
    client, server = (
        Session(Endpoint(client_context(ca), HOST)),
        Session(Endpoint(server_context(authority), None, server=True)),
    )
    for _ in range(4):
        client.do_handshake()
        server.feed(client.take())
        server.do_handshake()
        client.feed(server.take())
    assert client.established
    assert server.established
    client.send(b"ping")
    server.feed(client.take())
    assert server.read() == b"ping"


# Configuration.


def test_context_is_strict_unless_told_otherwise(ca: str) -> None:
    context = client_context(ca)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    with pytest.raises(ValueError, match="host"):
        Endpoint(context, None)


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    one, other = authority.issue_cert("a.example"), authority.issue_cert("b.example")
    one.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    one.private_key_pem.write_to_path(tmp_path / "key")
    other.private_key_pem.write_to_path(tmp_path / "other")
    (tmp_path / "text").write_text("no certificate\n")
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(one.private_key_pem.bytes(), None)
    locked = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"pw"))
    (tmp_path / "locked").write_bytes(locked)
    return {name: str(tmp_path / name) for name in ("cert", "key", "other", "text", "locked", "missing")}


@pytest.mark.parametrize(
    ("ca_file", "cert", "key", "message"),
    [
        ("missing", None, None, r"target\.ca='.*missing': cannot be read: No such file"),
        ("text", None, None, r"target\.ca='.*text': holds no certificate"),
        (None, "missing", "key", r"target\.cert='.*missing': cannot be read"),
        (None, "cert", "missing", r"target\.key='.*missing': cannot be read"),
        (None, "cert", "other", r"target\.key='.*other': is not the key of the certificate '.*cert'"),
        (None, "cert", None, r"target\.cert='.*cert': holds no certificate with its key.*--key"),
        (None, "text", "key", r"target\.cert='.*text': it and target\.key"),
        (None, "cert", "text", r"target\.cert='.*cert': it and target\.key"),
        (None, "cert", "locked", r"target\.key='.*locked': is protected by a password"),
        (None, None, "key", r"target\.key='.*key': a key needs its certificate"),
    ],
)
def test_files_that_cannot_be_used(
    files: dict[str, str], ca_file: str | None, cert: str | None, key: str | None, message: str
) -> None:
    def path(name: str | None) -> str | None:
        return files[name] if name else None

    with pytest.raises(ConfigError, match=message):
        make_context(insecure=False, ca=path(ca_file), cert=path(cert), key=path(key), alpn=[])
