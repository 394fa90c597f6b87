"""llmgen itself, one worker, every event recorded."""

from __future__ import annotations

import json
import sys
from importlib import metadata

from benchmarks.peers import TOKENS, Load, Peer, Percentiles, Told


def command(program: str, load: Load) -> list[str]:
    wanted = [program, "-m", "llmgen", "run", "--url", load.url, "--duration", f"{load.seconds}s", "--workers", "1"]
    wanted += [
        "--input-tokens",
        "32",
        "--output-tokens",
        str(TOKENS),
        "--out",
        str(load.folder),
        "--json",
        "--seed",
        str(load.seed),
    ]
    kind = ["--arrival", "poisson", "--rate", str(load.rate)] if load.rate else ["--concurrency", str(load.streams)]
    return [*wanted, *kind]


def read(load: Load, output: str) -> Told:
    summary = json.loads(output)
    latency, verdict = summary["latency"], summary["verdict"]
    ttft, gap = latency["ttft_ms"], latency["chunk_gap_ms"]
    return Told(
        Percentiles(ttft["p50"], ttft["p99"]),
        Percentiles(gap["p50"], gap["p99"]),
        verdict="; ".join([verdict["status"], *verdict["reasons"]]),
    )


PEERS = [Peer("llmgen", True, lambda: sys.executable, lambda _: metadata.version("llmgen"), command, read)]
