"""Local addresses: what is one, which target they can reach, how many connections they carry."""

from __future__ import annotations

import socket

import pytest

from llmgen import sources
from llmgen.errors import ConfigError
from llmgen.target import Target

V4 = ("inet", "192.0.2.1", 80)
V6 = ("inet6", "2001:db8::1", 80, 0)


def target(*addresses: tuple[object, ...]) -> Target:
    return Target("http://h", False, "h", "h", addresses, "")


def test_loopback_has_many() -> None:
    assert sources.parse(["127.0.0.2", "127.9.9.9"]) == (("inet", "127.0.0.2", 0), ("inet", "127.9.9.9", 0))
    assert sources.parse([]) == ()


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["localhost"], r"client\.source_addresses\[0\]='localhost': must be an IP address"),
        (["127.0.0.2", "127.0.0.2"], r"source_addresses\[1\]='127\.0\.0\.2': is there twice"),
        (["192.0.2.77"], r"'192\.0\.2\.77': is no address of this machine"),
        (["fe80::1%nowhere"], r"there is no interface nowhere"),
    ],
)
def test_refusals(texts: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        sources.parse(texts)


def test_the_port_is_left_to_connect() -> None:
    with socket.socket() as stream:
        sources.bind(stream, ("inet", "127.0.0.2", 0))
        assert stream.getsockname() == ("127.0.0.2", 0)


def test_only_addresses_of_their_family_are_kept() -> None:
    local = (("inet", "127.0.0.2", 0), ("inet", "127.0.0.3", 0))
    found = sources.reachable(target(V6, V4), local)
    assert (found.addresses, found.sources) == ((V4,), local)
    assert sources.reachable(target(V6, V4), ()).addresses == (V6, V4)
    with pytest.raises(ConfigError, match="family of http://h, IPv6"):
        sources.reachable(target(V6), local)


def test_each_pair_of_addresses_has_all_ports() -> None:
    local = (("inet", "127.0.0.2", 0), ("inet", "127.0.0.3", 0), ("inet6", "::1", 0, 0))
    assert sources.pairs(target(V4, V6)) == 2
    assert sources.pairs(sources.reachable(target(V4, V6), local)) == 3
    assert sources.pairs(target(("unix", "/s"))) == 0
