"""Are the token times still true when a busy process shares the worker's core? Held against the server's truth log.

Each round runs llmgen twice against the same load, in alternating order: alone on its core, and with a loop of pure
computing pinned to the same core at the same niceness, which takes about half of it. The server has another core; one
event a write. Errors are request by request and gap by gap, what was reported − what the server logged (the request's
kernel arrival → the write of a token; write → write), once by the kernel's stamps and once by user-space stamps, which
is what a client without kernel stamps would report. Asked for: with kernel stamps the error under load is at most twice
that without (or FLOOR_US: differences below it are of no consequence), and the verdict is suspect or invalid.

With --http 2 the streams of a connection share reads and their stamps, and the errors show it; the verdict then makes
no promise about the tokens' times.

    python benchmarks/overload.py --streams 1000 --seconds 10 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from processes import cpu_seconds

from llmgen import machine
from llmgen.columns import Kind
from llmgen.simulator import Endpoint, Options
from llmgen.simulator.truth import read_truth

TOKENS = 100
TTFT_S, GAP_S = 0.1, 0.02
FLOOR_US = 100.0  # 0.1 % of this TTFT, 0.5 % of this gap
SPINNER = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
Row = dict[str, float]


class Spinner:
    """A process that computes on the core, in a session of its own with our niceness, as llmgen's workers have."""

    def __init__(self, core: int) -> None:
        command = [sys.executable, "-c", SPINNER, str(core)]
        self.process = subprocess.Popen(command, start_new_session=True, preexec_fn=machine.carry_niceness)
        self.seen: list[tuple[float, float]] = []  # monotonic s, its CPU s so far
        self.over = threading.Event()
        self.watch = threading.Thread(target=self.look)

    def look(self) -> None:
        while not self.over.wait(0.1):
            self.seen.append((time.monotonic(), cpu_seconds(self.process.pid)))

    def share(self, start: float, end: float) -> float:
        """What it had of the core between two moments."""
        times, cpu = zip(*self.seen, strict=True)
        first, last = np.interp((start, end), times, cpu)
        return float((last - first) / (end - start))

    def __enter__(self) -> Spinner:
        self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.watch.join()
        self.process.kill()
        self.process.wait()


def run(a: argparse.Namespace, url: str, out: Path) -> tuple[dict[str, Any], Path]:
    """The run's summary and directory."""
    rate = a.streams / (TTFT_S + TOKENS * GAP_S)
    command = ["taskset", "-c", str(a.client_core), sys.executable, "-m", "llmgen", "run", "--url", url, "--json"]
    command += ["--arrival", "poisson", "--rate", f"{rate:.3f}", "--duration", f"{a.seconds}s", "--workers", "1"]
    command += ["--input-tokens", "32", "--output-tokens", str(TOKENS), "--out", str(out)]
    command += ["--http", a.http]
    if a.streams_per_connection:
        command += ["--streams-per-connection", str(a.streams_per_connection)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=a.seconds * 4 + 120)
    if done.returncode not in (0, 4):
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout), (out / "latest").resolve()


def errors_us(run_directory: Path, truth_path: Path) -> dict[str, np.ndarray]:
    """Reported − true, µs: TTFT of each request by both stamps; the size of it for gaps by the kernel's stamps."""
    truth = read_truth(truth_path)
    requests, events = np.load(run_directory / "requests.npy"), np.load(run_directory / "events.npy")
    index_of = np.full(int(truth.requests["serial"].max()) + 1, -1, np.int64)
    index_of[truth.requests["serial"]] = truth.requests["index"]
    arrival = np.full(int(requests["index"].max()) + 1, -1, np.int64)
    known = truth.requests[truth.requests["index"] >= 0]
    arrival[known["index"]] = known["t"]
    writes = truth.writes[truth.writes["tokens"] > 0]
    true_t, true_of = writes["t"], index_of[writes["serial"]]
    token = events[(events["kind"] & int(Kind.text)) != 0]
    our_t, our_of = token["t"], requests["index"][token["request"]].astype(np.int64)
    true_order, our_order = np.lexsort((true_t, true_of)), np.argsort(our_of, kind="stable")
    true_t, true_of, our_t, our_of = true_t[true_order], true_of[true_order], our_t[our_order], our_of[our_order]
    # only whole answers: the n-th token event is then the n-th write
    whole = requests["index"][(requests["status"] == 0) & (requests["output_tokens"] == TOKENS)]
    true_in, our_in = np.isin(true_of, whole), np.isin(our_of, whole)
    true_t, true_of, our_t, our_of = true_t[true_in], true_of[true_in], our_t[our_in], our_of[our_in]
    if not np.array_equal(true_of, our_of):
        raise SystemExit("the run and the truth log do not have the same token events")
    first = np.append(True, np.diff(true_of) != 0)
    same = ~first[1:]
    of_first = true_of[first]
    row_of = np.full(len(arrival), -1, np.int64)
    row_of[requests["index"]] = np.arange(len(requests))
    rows = requests[row_of[of_first]]
    true_ttft = true_t[first] - arrival[of_first]
    return {
        "ttft": (rows["first_token"] - rows["send"] - true_ttft) / 1e3,
        "ttft_user": (rows["first_token_user"] - rows["send"] - true_ttft) / 1e3,
        "gap": np.abs(np.diff(our_t) - np.diff(true_t))[same] / 1e3,
    }


def measure(a: argparse.Namespace, *, shared: bool) -> tuple[Row, str, str]:
    """One run; its figures, its verdict and the first reason."""
    with tempfile.TemporaryDirectory() as name:
        truth = Path(name) / "truth"
        options = Options(ttft=f"{TTFT_S}s", itl=f"{GAP_S}s", cores=str(a.server_core), truth=str(truth))
        with Endpoint(options) as server:
            share = 0.0
            if shared:
                with Spinner(a.client_core) as spinner:
                    summary, directory = run(a, server.url, Path(name))
                start = json.loads((directory / "run.json").read_text())["start_ns"] / 1e9
                share = spinner.share(start, start + a.seconds)
            else:
                summary, directory = run(a, server.url, Path(name))
        row: Row = {"spinner_share": share, "worker_share": summary["client"]["cpu_share_max"]}
        for key, values in errors_us(directory, truth).items():
            row |= {f"{key}_p50": float(np.median(values)), f"{key}_p99": float(np.percentile(values, 99))}
    for key, dist in (("gap_reported", "chunk_gap_ms"), ("ttft_reported", "ttft_ms")):
        row[f"{key}_p99_ms"] = summary["latency"][dist]["p99"]
    for key, dist in (("gap_user", "chunk_gap_user_ms"), ("ttft_user", "ttft_user_ms")):
        row[f"{key}_p99_ms"] = summary["client"][dist]["p99"]
    row["coalesced_pct"] = 100 * summary["client"]["coalesced_share"]
    row["drain_lag_p99"] = summary["client"]["drain_lag_us"]["p99"]
    row["schedule_lag_p99"] = 1e3 * summary["load"]["schedule_lag_ms"]["p99"]
    verdict = summary["verdict"]
    return row, verdict["status"], next(iter(verdict["reasons"]), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000, help="answers under way at a time")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--http", choices=("1.1", "2"), default="1.1")
    parser.add_argument("--streams-per-connection", type=int, help="over HTTP/2")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds and the medians")
    a = parser.parse_args()
    rows: dict[bool, list[Row]] = {False: [], True: []}
    verdicts: dict[bool, list[str]] = {False: [], True: []}
    for number in range(a.rounds):
        for shared in (False, True) if number % 2 == 0 else (True, False):
            row, verdict, reason = measure(a, shared=shared)
            rows[shared].append(row)
            verdicts[shared].append(verdict)
            shown = {key: round(value, 2) for key, value in row.items()}
            print(number, "shared" if shared else "alone", verdict, reason, shown, flush=True)
    medians = {
        shared: {key: round(statistics.median(row[key] for row in some), 3) for key in some[0]}
        for shared, some in rows.items()
    }
    print(f"{'medians':24}{'alone':>12}{'shared':>12}")
    for key in medians[False]:
        print(f"{key:24}{medians[False][key]:12.2f}{medians[True][key]:12.2f}")
    kept = {
        key: abs(medians[True][key]) <= max(2 * abs(medians[False][key]), FLOOR_US)
        for key in ("ttft_p50", "ttft_p99", "gap_p50", "gap_p99")
    }
    blamed = all(verdict in ("suspect", "invalid") for verdict in verdicts[True])
    print("at most twice the error alone:", kept, "; suspect or invalid when shared:", blamed)
    if a.json:
        told = {"alone": rows[False], "shared": rows[True], "verdicts_shared": verdicts[True]}
        a.json.write_text(json.dumps({**told, "medians": [medians[False], medians[True]]}, indent=1) + "\n")
    return 0 if all(kept.values()) and blamed else 1


if __name__ == "__main__":
    sys.exit(main())
