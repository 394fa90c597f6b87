"""The C limit, limits/sse_client.c: an epoll loop that finds `data:` lines, with and without the kernel's stamps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.peers import GAP_MS, TOKENS, TTFT_MS, Load, Peer, Percentiles, Told

LIMITS = Path(__file__).parents[1] / "limits"


def ramp_s(load: Load) -> float:
    """Beside an open loop its streams begin spread over an answer's length, or they would stay in step."""
    return (TTFT_MS + TOKENS * GAP_MS) / 1000 if load.rate else 0.0


def find() -> str | None:
    made = subprocess.run(["make", "-s", "-C", str(LIMITS), "sse_client"], capture_output=True)
    return None if made.returncode else str(LIMITS / "sse_client")


def command(program: str, load: Load, *more: str) -> list[str]:
    wanted = [program, "-p", str(load.port), "-c", str(load.streams), "-n", str(TOKENS)]
    return [*wanted, "-r", str(ramp_s(load)), "-t", str(max(1.0, load.seconds - ramp_s(load) - 1)), *more]


def read(load: Load, output: str) -> Told:
    told = json.loads(output)
    ttft, gap = told["ttft_us"], told["gap_us"]
    return Told(
        Percentiles(ttft["p50"] / 1e3, ttft["p99"] / 1e3),
        Percentiles(gap["p50"] / 1e3, gap["p99"] / 1e3),
        from_s=ramp_s(load) + 1,  # when it begins to measure
    )


PEERS = [
    Peer("C client", False, find, lambda _: "", command, read),
    Peer("C client, kernel stamps", False, find, lambda _: "", lambda p, load: command(p, load, "-k"), read),
]
