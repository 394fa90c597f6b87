"""Which ephemeral ports are taken, from tables as the kernel prints them."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from llmgen import machine
from llmgen.checks import ports
from llmgen.target import Target

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
ESTABLISHED, TIME_WAIT, LISTEN = 1, 6, 10


def end(address: str, port: int) -> str:
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = [int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def table(path: Path, *rows: tuple[str, int, str, int, int]) -> str:
    lines = [
        f"   {number}: {end(local, port)} {end(remote, remote_port)} {state:02X} 00000000:00000000 00:00000000 00000000"
        for number, (local, port, remote, remote_port, state) in enumerate(rows)
    ]
    path.write_text(HEAD + "\n".join(lines) + "\n")
    return str(path)


def target(address: str = "10.0.0.9", *sources: str) -> Target:
    local = tuple(("inet", one, 0) for one in sources)
    return Target("http://h", False, "h", "h", (("inet", address, 80),), "", local)


@pytest.fixture(autouse=True)
def small_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "port_range", lambda: (40000, 40009))
    monkeypatch.setattr(ports, "reused", lambda address: False)


def test_only_what_goes_to_the_target_counts(tmp_path: Path) -> None:
    name = table(
        tmp_path / "tcp",
        ("10.0.0.1", 40000, "10.0.0.9", 80, ESTABLISHED),
        ("10.0.0.1", 40001, "10.0.0.9", 80, TIME_WAIT),
        ("10.0.0.1", 40002, "10.0.0.9", 81, ESTABLISHED),
        ("10.0.0.1", 40003, "10.0.0.8", 80, ESTABLISHED),
        ("10.0.0.1", 39999, "10.0.0.9", 80, ESTABLISHED),
        ("0.0.0.0", 40004, "0.0.0.0", 80, LISTEN),
    )
    found = ports.look(target(), [name])
    assert (found.taken, found.waiting, found.free) == (1, 1, 8)


def test_sources_have_a_range_each_and_their_own_sockets(tmp_path: Path) -> None:
    name = table(
        tmp_path / "tcp",
        ("10.0.0.1", 40000, "10.0.0.9", 80, ESTABLISHED),
        ("10.0.0.2", 40000, "10.0.0.9", 80, ESTABLISHED),
    )
    found = ports.look(target("10.0.0.9", "10.0.0.2", "10.0.0.3"), [name])
    assert (found.pairs, found.taken, found.free) == (2, 1, 19)


def test_ipv6_and_ipv4_through_ipv6(tmp_path: Path) -> None:
    name = table(
        tmp_path / "tcp6",
        ("::ffff:10.0.0.1", 40000, "::ffff:10.0.0.9", 80, ESTABLISHED),
        ("2001:db8::1", 40001, "2001:db8::9", 80, TIME_WAIT),
    )
    assert ports.look(target(), [name]).taken == 1
    six = Target("http://h", False, "h", "h", (("inet6", "2001:db8::9", 80, 0),), "")
    assert ports.look(six, [name]).waiting == 1


def test_time_wait_that_connect_takes_over_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = table(tmp_path / "tcp", ("127.0.0.1", 40001, "127.0.0.1", 80, TIME_WAIT))
    assert ports.look(target("127.0.0.1"), [name]).free == 9
    monkeypatch.setattr(ports, "reused", lambda address: True)
    assert ports.look(target("127.0.0.1"), [name]).free == 10


def test_a_table_that_is_not_there_and_a_damaged_line(tmp_path: Path) -> None:
    name = tmp_path / "tcp"
    name.write_text(HEAD + "   0: 0100\n")
    assert ports.look(target(), [str(tmp_path / "none"), str(name)]).free == 10


def test_real_sockets_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            found = list(ports.rows(port))
            assert [(row.local, row.remote) for row in found] == [(client.getsockname(), ("127.0.0.1", port))]
