"""Ephemeral ports towards a target: how many there are, and how many are taken."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmgen import machine, sources
from llmgen.target import Address, Target

TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
TIME_WAIT: Final = 6  # TCP_TIME_WAIT of <net/tcp_states.h>
LISTEN: Final = 10


@dataclass(frozen=True)
class Row:
    """A line of /proc/net/tcp*: an IPv4 address that an IPv6 socket uses is shown as IPv4."""

    local: tuple[str, int]
    remote: tuple[str, int]
    state: int


@dataclass(frozen=True)
class Ports:
    """Over all pairs of a local and a remote address of a target."""

    pairs: int
    range: int  # ports in the ephemeral range, of one pair
    taken: int  # connections there are, of anybody on this machine
    waiting: int  # in TIME_WAIT, and not to be had before that is over

    @property
    def free(self) -> int:
        return max(0, self.pairs * self.range - self.taken - self.waiting)


def rows(port: int, tables: Sequence[str] = TABLES) -> Iterator[Row]:
    """Sockets connected to a remote `port`."""
    wanted = f":{port:04X}"
    for table in tables:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split(None, 4)
            if len(fields) == 5 and fields[2].endswith(wanted) and int(fields[3], 16) != LISTEN:
                yield Row(_end(fields[1]), _end(fields[2]), int(fields[3], 16))


def _end(text: str) -> tuple[str, int]:
    """An address as the kernel prints it: words of 32 bits in this machine's byte order, in hexadecimal."""
    words, _, port = text.partition(":")
    packed = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed), int(port, 16)
    six = ipaddress.IPv6Address(packed)
    return str(six.ipv4_mapped or six), int(port, 16)


def look(target: Target, tables: Sequence[str] = TABLES) -> Ports:
    """Nothing for a unix socket."""
    low, high = machine.port_range()
    taken = waiting = 0
    for address in target.addresses:
        if address[0] == "unix":
            continue
        local = {one[1] for one in sources.of_family(target.sources, address[0])}
        for row in rows(address[2], tables):
            if row.remote != (address[1], address[2]) or not low <= row.local[1] <= high:
                continue
            if local and row.local[0] not in local:
                continue
            if row.state != TIME_WAIT:
                taken += 1
            elif not reused(address):
                waiting += 1
    return Ports(sources.pairs(target), high - low + 1, taken, waiting)


def reused(address: Address) -> bool:
    """Whether connect takes a port in TIME_WAIT (after a second): net.ipv4.tcp_tw_reuse, 2 is for loopback only."""
    try:
        value = int(Path("/proc/sys/net/ipv4/tcp_tw_reuse").read_text())
    except (OSError, ValueError):
        return False
    return value == 1 or (value == 2 and ipaddress.ip_address(address[1]).is_loopback)
