"""CPU per event of one llmgen worker against the C client, and what llmgen reports against what the server logged.

Both drive the same `llmgen serve`, which writes a truth log, on another core, alternately, several rounds: 1,000
streams of 50 events/s over HTTP/1.1, one event a write, true TTFT 100 ms and gap 20 ms. The C client
(limits/sse_client.c) only finds `data:` lines, once with recv and once with the kernel's stamps through recvmsg (-k);
llmgen parses, classifies, stamps and records every event. Both are measured over as many seconds once all streams run,
which begin evenly over the time that an answer takes: streams in step would let one wake serve many of them.

    python benchmarks/client_cost.py --streams 1000 --seconds 8 --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from processes import children, cpu_seconds

from llmgen.selfbench.accuracy import against, reported
from llmgen.simulator import Endpoint, Options
from llmgen.simulator.truth import read_truth

LIMITS = Path(__file__).parent / "limits"
TOKENS = 200
TTFT_S, GAP_S = 0.1, 0.02
ANSWER_S = TTFT_S + TOKENS * GAP_S


def paced(a: argparse.Namespace, truth: Path) -> Endpoint:
    """The server of both."""
    return Endpoint(Options(ttft="100ms", itl="20ms", cores=str(a.server_core), truth=str(truth)))


def c_client(port: int, a: argparse.Namespace, *more: str) -> float:
    """µs of CPU an event."""
    command = [str(LIMITS / "sse_client"), "-p", str(port), "-c", str(a.streams), "-n", str(TOKENS)]
    command += ["-t", str(a.seconds), "-r", str(ANSWER_S), "-o", str(a.client_core), *more]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=a.seconds + 60).stdout)
    return float(told["us_per_event"])


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            return what()
        time.sleep(0.02)
    raise TimeoutError


def started(out: Path) -> float:
    """When the load begins, on the monotonic clock; KeyError until that is known."""
    start = json.loads((out / "latest" / "run.json").read_bytes())["start_ns"]
    if start < 0:
        raise KeyError
    return float(start) / 1e9


def llmgen_run(url: str, a: argparse.Namespace, out: Path) -> tuple[float, Path]:
    """One run of as many streams at a time, in open loop; µs of CPU an event, and the run's directory."""
    rate = a.streams / ANSWER_S
    command = [sys.executable, "-m", "llmgen", "run", "--url", url, "--arrival", "constant", "--rate", f"{rate:.3f}"]
    command += ["--duration", f"{a.seconds + 6}s", "--output-tokens", str(TOKENS), "--input-tokens", "32", "--quiet"]
    command += ["--workers", "1", "--out", str(out), "--warmup", "5s"]
    with subprocess.Popen(["taskset", "-c", str(a.client_core), *command], stdout=subprocess.DEVNULL) as process:
        try:
            begin = wait_for(lambda: started(out), 30) + ANSWER_S + 1
            worker = children(process.pid)[0]
            time.sleep(max(0.0, begin - time.monotonic()))
            since, before = time.monotonic_ns(), cpu_seconds(worker)
            time.sleep(a.seconds)
            until, after = time.monotonic_ns(), cpu_seconds(worker)
            process.wait(timeout=a.seconds + 120)
        finally:
            process.kill()
    run = (out / "latest").resolve()
    t = np.load(run / "events.npy", mmap_mode="r")["t"]
    return (after - before) * 1e6 / int(np.count_nonzero((t >= since) & (t < until))), run


def against_truth(run: Path, truth_path: Path) -> dict[str, float]:
    """Reported, and reported minus logged, ms, at p50 and p99."""
    info = json.loads((run / "run.json").read_text())
    span = info["start_ns"], info["end_ns"]
    told = reported(np.load(run / "requests.npy"), np.load(run / "events.npy"), span, span)
    result = {}
    for name, found in zip(("ttft", "gap"), against(read_truth(truth_path), told), strict=True):
        assert found is not None
        result |= {f"{name}_p50": found.p50_ms, f"{name}_p50_error": found.p50_error_ms}
        result |= {f"{name}_p99": found.p99_ms, f"{name}_p99_error": found.p99_error_ms}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    a = parser.parse_args()
    subprocess.run(["make", "-s", "-C", str(LIMITS)], check=True)
    rows = []
    for number in range(a.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            truth = Path(scratch) / "truth"
            with paced(a, truth) as endpoint:
                cost, run = llmgen_run(endpoint.url, a, Path(scratch))
            row = {"llmgen": cost, **against_truth(run, truth)}
            with paced(a, Path(scratch) / "truth-c") as endpoint:
                port = int(endpoint.url.rpartition(":")[2])
                row["c"] = c_client(port, a)
                row["c_stamped"] = c_client(port, a, "-k")
        row["ratio"] = row["llmgen"] / row["c"]
        row["ratio_stamped"] = row["llmgen"] / row["c_stamped"]
        rows.append(row)
        print(number, {name: round(value, 3) for name, value in row.items()}, flush=True)
    print("medians", {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]})


if __name__ == "__main__":
    main()
