"""Whole runs from several local addresses: the server sees them in turn."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path

import pytest

from llmgen import machine, sources
from llmgen.errors import ConfigError
from odd_servers import GOOD, OddServer, Peer, always
from running import statuses


def test_the_server_sees_every_source_address_in_turn(offer):
    seen: Counter[str] = Counter()

    def handler(peer: Peer) -> None:
        seen[peer.socket.getpeername()[0]] += 1
        always(GOOD)(peer)

    with OddServer(handler) as server:
        result = offer(
            server.url,
            **{"client.source_addresses": ["127.0.0.2", "127.0.0.3", "127.0.0.4"], "client.preconnect": 6},
        )
    assert statuses(result.requests) == {"ok": 20}
    seen["127.0.0.2"] -= 1  # the look before the load comes from the first of them
    assert set(seen) == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}
    assert min(seen.values()) >= 2
    assert max(seen.values()) - min(seen.values()) <= 1


def test_several_addresses_have_as_many_ports_more(offer, endpoint, monkeypatch):
    monkeypatch.setattr(machine, "ephemeral_ports", lambda: 3)
    with pytest.raises(ConfigError, match="--source-address"):
        offer(endpoint.url, **{"load.concurrency": 5})
    result = offer(endpoint.url, **{"load.concurrency": 5, "client.source_addresses": ["127.0.0.2", "127.0.0.3"]})
    assert statuses(result.requests) == {"ok": 20}


def test_an_address_of_nobody_is_refused_before_anything_is_sent(offer):
    with OddServer(always(GOOD)) as server:
        with pytest.raises(ConfigError, match="no address of this machine"):
            offer(server.url, **{"client.source_addresses": ["192.0.2.77"]})
        assert not server.accepted


def test_an_address_that_was_lost_since_is_a_limit_of_ours(offer, endpoint, monkeypatch):
    monkeypatch.setattr(sources, "bind", lambda stream, address: None)
    result = offer(endpoint.url, **{"client.source_addresses": ["192.0.2.77"]})
    assert statuses(result.requests) == {"client_limit": 20}
    assert result.summary.verdict.status == "invalid"
    assert any("--source-address" in reason for reason in result.summary.verdict.reasons)


def test_ipv6(offer, serve):
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 on this machine")
    endpoint = serve(host="::1")
    result = offer(endpoint.url, **{"client.source_addresses": ["127.0.0.2", "::1"]})
    assert statuses(result.requests) == {"ok": 20}
