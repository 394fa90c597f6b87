"""Local addresses that connections are spread over (`--source-address`).

Each has a range of ephemeral ports of its own towards every destination, so several of them carry more connections than
one. On loopback 127.0.0.2, 127.0.0.3 … need no set-up; elsewhere they are further addresses of an interface.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from llmgen.decoding import wrong
from llmgen.errors import ConfigError
from llmgen.target import Address, Target

KEY: Final = "client.source_addresses"
IP_BIND_ADDRESS_NO_PORT: Final = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # <linux/in.h>; in Python since 3.12
FAMILIES: Final = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


def parse(texts: Sequence[str]) -> tuple[Address, ...]:
    """The addresses as those of a target, their port 0. ConfigError for one that is none, or not this machine's."""
    found: list[Address] = []
    for number, text in enumerate(texts):
        key = f"{KEY}[{number}]"
        try:
            ip = ipaddress.ip_address(text.strip("[]"))
        except ValueError:
            raise wrong(key, text, "must be an IP address of this machine, like 10.0.0.5") from None
        address: Address = ("inet", str(ip), 0)
        if isinstance(ip, ipaddress.IPv6Address):
            bare, _, scope = str(ip).partition("%")
            address = ("inet6", bare, 0, _scope(scope, key, text))
        if address in found:
            raise wrong(key, text, "is there twice")
        try:
            with socket.socket(FAMILIES[address[0]], socket.SOCK_STREAM) as probe:
                bind(probe, address)
        except OSError as error:
            unknown = error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL)
            what = "is no address of this machine; see ip addr" if unknown else f"cannot be used: {error.strerror}"
            raise wrong(key, text, what) from None
        found.append(address)
    return tuple(found)


def _scope(scope: str, key: str, text: str) -> int:
    if not scope or scope.isdigit():
        return int(scope or 0)
    try:
        return socket.if_nametoindex(scope)
    except OSError:
        raise wrong(key, text, f"there is no interface {scope}") from None


def bind(stream: socket.socket, address: Address) -> None:
    """Binds to a local address; its port is chosen by connect. OSError."""
    # of this level for IPv6, too
    stream.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    stream.bind(address[1:3] if address[0] == "inet" else (address[1], 0, 0, address[3]))


def of_family(sources: Sequence[Address], family: Any) -> list[Address]:
    """Those from which an address of `family` ("inet", "inet6") can be reached."""
    return [one for one in sources if one[0] == family]


def reachable(target: Target, sources: Sequence[Address]) -> Target:
    """`target` with these sources, and the addresses for which one has the family. ConfigError if none is left."""
    if not sources or target.addresses[0][0] == "unix":
        return target
    kept = tuple(address for address in target.addresses if of_family(sources, address[0]))
    if not kept:
        family = "IPv4" if target.addresses[0][0] == "inet" else "IPv6"
        raise ConfigError(f"{KEY}: none is of the family of {target.url}, {family}; name one that is")
    return replace(target, addresses=kept, sources=tuple(sources))


def pairs(target: Target) -> int:
    """Pairs of a local and a remote address: each has all ephemeral ports. 0 for a unix socket."""
    found = 0
    for address in target.addresses:
        if address[0] != "unix":
            found += len(of_family(target.sources, address[0])) if target.sources else 1
    return found
