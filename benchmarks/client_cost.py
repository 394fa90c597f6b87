"""CPU per event of one llmgen worker against the C client, and what llmgen reports against what the server logged.

Both drive the same `llmgen serve` on another core, alternately, several rounds: 1,000 streams of 50 events/s over
HTTP/1.1, one event a write, true TTFT 100 ms and gap 20 ms. The C client (limits/sse_client.c) only finds `data:`
lines, once with recv and once with the kernel's stamps through recvmsg (-k); llmgen parses, classifies, stamps and
records every event.

    python benchmarks/client_cost.py --streams 1000 --seconds 8 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from llmgen.columns import EVENT_DTYPE, REQUEST_DTYPE, Kind
from llmgen.simulator import Endpoint, Options
from llmgen.simulator.truth import read_truth, timing

LIMITS = Path(__file__).parent / "limits"
TOKENS = 200
TTFT_S, GAP_S = 0.1, 0.02


def c_client(port: int, a: argparse.Namespace, *more: str) -> float:
    """µs of CPU an event."""
    command = [str(LIMITS / "sse_client"), "-p", str(port), "-c", str(a.streams), "-n", str(TOKENS)]
    command += ["-t", str(a.seconds), "-r", "4", "-o", str(a.client_core), *more]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=a.seconds + 60).stdout)
    return float(told["us_per_event"])


def llmgen_run(url: str, a: argparse.Namespace, out: Path) -> tuple[dict[str, Any], Path]:
    """One run of as many streams at a time, in open loop: their phases are spread as a real load's are."""
    rate = a.streams / (TTFT_S + TOKENS * GAP_S)
    command = [sys.executable, "-m", "llmgen", "run", "--url", url, "--arrival", "constant", "--rate", f"{rate:.3f}"]
    command += ["--duration", f"{a.seconds + 4}s", "--output-tokens", str(TOKENS), "--input-tokens", "32", "--json"]
    command += ["--workers", "1", "--out", str(out), "--warmup", "4s"]
    wanted = ["taskset", "-c", str(a.client_core), *command]
    done = subprocess.run(wanted, capture_output=True, text=True, timeout=a.seconds + 120)
    summary = json.loads(done.stdout)
    return summary, (out / "latest").resolve()


def steps_ms(group: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Gaps between the distinct times of each group, ms."""
    order = np.lexsort((t, group))
    group, t = group[order], t[order]
    step = np.diff(t)
    return np.asarray(step[(np.diff(group) == 0) & (step > 0)] / 1e6)


def against_truth(run: Path, truth_path: Path) -> dict[str, float]:
    """Reported minus logged, ms, at p50 and p99."""
    truth = read_truth(truth_path)
    requests, events = np.load(run / "requests.npy"), np.load(run / "events.npy")
    assert requests.dtype == REQUEST_DTYPE
    assert events.dtype == EVENT_DTYPE
    token = (events["kind"] & int(Kind.text)) != 0
    writes = truth.writes[truth.writes["tokens"] > 0]
    pairs = {
        "ttft": ((requests["first_token"] - requests["send"]) / 1e6, timing(truth).ttft / 1e6),
        "gap": (steps_ms(events["request"][token], events["t"][token]), steps_ms(writes["serial"], writes["t"])),
    }
    result = {}
    for name, (ours, true) in pairs.items():
        for p in (50, 99):
            result[f"{name}_p{p}"] = float(np.percentile(ours, p))
            result[f"{name}_p{p}_error"] = float(np.percentile(ours, p) - np.percentile(true, p))
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
            options = Options(ttft="100ms", itl="20ms", cores=str(a.server_core), truth=str(truth))
            with Endpoint(options) as endpoint:
                summary, run = llmgen_run(endpoint.url, a, Path(scratch))
            row = {"llmgen": summary["client"]["cpu_us_per_event"], **against_truth(run, truth)}
            with Endpoint(Options(ttft="100ms", itl="20ms", cores=str(a.server_core))) as endpoint:
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
