"""CPU per event of `llmgen serve` against the plain C server of the same behaviour (limits/sse_server.c).

Both are driven by limits/sse_client.c on another core, alternately, several rounds; what is compared is the servers'
CPU time (schedstat of all threads) over the same window as the client's events. Prints every round and the medians.

    python benchmarks/server_cost.py --connections 500 --interval-ms 20 --seconds 5 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import cpu_seconds

from llmgen.simulator import Endpoint, Options

LIMITS = Path(__file__).parent / "limits"


def drive(port: int, pid: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One measured window of the client; the server's CPU is taken over the same seconds."""
    ramp = arguments.interval_ms / 1000
    command = [str(LIMITS / "sse_client"), "-p", str(port), "-c", str(arguments.connections)]
    command += ["-n", str(arguments.tokens), "-t", str(arguments.seconds), "-r", str(ramp)]
    command += ["-o", str(arguments.client_core)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE)
    time.sleep(ramp + 1.2)  # the client's own measurement begins a second after the ramp
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(max(0.5, arguments.seconds - 0.5))
    spent, took = cpu_seconds(pid) - before, time.monotonic() - start
    assert client.stdout is not None
    told = json.loads(client.stdout.read())
    client.wait()
    return {
        "events_per_s": told["events_per_s"],
        "server_us_per_event": spent / took / told["events_per_s"] * 1e6,
        "server_load": spent / took,
        "client_us_per_event": told["us_per_event"],
    }


def measure_c(arguments: argparse.Namespace) -> dict[str, float]:
    command = [str(LIMITS / "sse_server"), "-f", str(arguments.ttft_ms), "-i", str(arguments.interval_ms)]
    command += ["-o", str(arguments.server_core)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().rsplit(b":", 1)[1])
        return drive(port, server.pid, arguments)
    finally:
        server.kill()
        server.wait()


def measure_llmgen(arguments: argparse.Namespace, truth: str | None) -> dict[str, float]:
    options = Options(
        ttft=f"{arguments.ttft_ms}ms",
        itl=f"{arguments.interval_ms}ms",
        cores=str(arguments.server_core),
        truth=truth,
    )
    with Endpoint(options) as endpoint:
        return drive(int(endpoint.url.rsplit(":", 1)[1]), endpoint.pid, arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--ttft-ms", type=float, default=100)
    parser.add_argument("--interval-ms", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    cores = sorted(os.sched_getaffinity(0))
    parser.add_argument("--server-core", type=int, default=cores[0])
    parser.add_argument("--client-core", type=int, default=cores[-1])
    arguments = parser.parse_args()
    subprocess.run(["make", "-s", "-C", str(LIMITS)], check=True)
    results: dict[str, list[dict[str, float]]] = {"C server": [], "llmgen serve": [], "llmgen serve --truth": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            results["C server"].append(measure_c(arguments))
            results["llmgen serve"].append(measure_llmgen(arguments, None))
            results["llmgen serve --truth"].append(measure_llmgen(arguments, f"{folder}/truth"))
            for name, rounds in results.items():
                print(name, {key: round(value, 3) for key, value in rounds[-1].items()}, flush=True)
    yardstick = statistics.median(row["server_us_per_event"] for row in results["C server"])
    for name, rounds in results.items():
        median = statistics.median(row["server_us_per_event"] for row in rounds)
        print(f"{name:22} {median:7.2f} us/event  {median / yardstick:5.2f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
