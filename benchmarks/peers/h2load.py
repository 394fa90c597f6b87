"""h2load: requests over HTTP/2 on 8 connections in a closed loop; bytes are counted, no token is timed."""

from __future__ import annotations

import re
import subprocess

from benchmarks.peers import Load, Peer, Told, installed

CONNECTIONS = 8


def version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    found = re.search(r"nghttp2/([\d.]+)", said.stdout)
    return found[1] if found else ""


def command(program: str, load: Load) -> list[str]:
    body = load.folder / "body.json"
    body.write_bytes(load.body())
    clients = min(CONNECTIONS, load.streams)
    wanted = [program, "-c", str(clients), "-m", str(load.streams // clients), "-D", f"{load.seconds:.0f}"]
    return [*wanted, "-d", str(body), "-H", "content-type: application/json", f"{load.url}/v1/chat/completions"]


def read(load: Load, output: str) -> Told:
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    if codes is None or int(codes[1]) == 0 or any(int(code) for code in codes.groups()[1:]):
        raise ValueError("no figures, or answers that are not 200")
    return Told()


PEERS = [Peer("h2load", False, installed("h2load"), version, command, read)]
