"""Cost of TLS on the reading side, a record of one event a read. Run: python -m pytest benchmarks/test_tls.py

`bare` is Python's own object with the fewest calls that do it, no look whether a record is whole and no result object:
the floor.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from pytest_benchmark.fixture import BenchmarkFixture

from llmgen.tls import Endpoint, Session, make_context

EVENT = b"data: " + b"x" * 172 + b"\n\n"
RECORDS = 1000


class Peer:
    """A server's end, and the client's context for it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("llm.example").configure_cert(context)
        self.client = make_context(insecure=False, ca=str(folder / "ca.pem"), cert=None, key=None, alpn=[])
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def shake_hands(
        self, step: Callable[[], object], take: Callable[[], bytes], give: Callable[[bytes], object]
    ) -> None:
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                step()
            self.incoming.write(take())
            with suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            give(self.outgoing.read())

    def records(self) -> list[bytes]:
        out = []
        for _ in range(RECORDS):
            self.tls.write(EVENT)
            out.append(self.outgoing.read())
        return out


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path)


def test_read_ours(benchmark: BenchmarkFixture, peer: Peer) -> None:
    session = Session(Endpoint(peer.client, "llm.example"))
    peer.shake_hands(session.do_handshake, session.take, session.feed)

    def read(records: list[bytes]) -> int:
        size = 0
        for record in records:
            session.feed(record)
            while part := session.read():
                size += len(part)
        return size

    assert session.read() is None
    assert benchmark.pedantic(read, setup=lambda: ((peer.records(),), {}), rounds=10) == RECORDS * len(EVENT)


def test_read_bare(benchmark: BenchmarkFixture, peer: Peer) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = peer.client.wrap_bio(incoming, outgoing, server_hostname="llm.example")
    peer.shake_hands(tls.do_handshake, outgoing.read, incoming.write)
    plain = memoryview(bytearray(16384))

    def read(records: list[bytes]) -> int:
        size = 0
        for record in records:
            incoming.write(record)
            size += tls.read(16384, plain)
        return size

    with pytest.raises(ssl.SSLWantReadError):
        tls.read(1)
    assert benchmark.pedantic(read, setup=lambda: ((peer.records(),), {}), rounds=10) == RECORDS * len(EVENT)
