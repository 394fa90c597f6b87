"""wrk: requests over HTTP/1.1 in a closed loop; the body is not parsed and no token is timed."""

from __future__ import annotations

import re
import subprocess

from benchmarks.peers import Load, Peer, Told, installed


def version(program: str) -> str:
    said = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=20)
    found = re.search(r"wrk \w*?/?([\d.]+)", said.stdout + said.stderr)
    return found[1] if found else ""


def command(program: str, load: Load) -> list[str]:
    script = load.folder / "post.lua"
    body = load.body().decode().replace("\\", "\\\\").replace("'", "\\'")
    script.write_text(f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['content-type'] = 'application/json'\n")
    wanted = [program, "-t", "1", "-c", str(load.streams), "-d", f"{load.seconds:.0f}s", "--timeout", "30s"]
    return [*wanted, "-s", str(script), f"{load.url}/v1/chat/completions"]


def read(load: Load, output: str) -> Told:
    if "Requests/sec" not in output or "Non-2xx" in output:
        raise ValueError("no figures, or answers that are not 200")
    return Told()


PEERS = [Peer("wrk", False, installed("wrk"), version, command, read)]
