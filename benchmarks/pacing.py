"""When requests go out: llmgen against a plain C timerfd loop on the same due times, in the same minutes, on one core.

Each round takes the three in turn, every other round in the reverse order, on the same core; the server is another:

    llmgen        `llmgen run`, open loop, Poisson, answers of a few tokens, one worker; the controller on the same core
                  unless --controller-core gives it another
    C loop        limits/timerfd_loop on llmgen's own due times; nothing is sent: how late this machine wakes anybody
    C client      the same with -p: sends a request at each due time and reads the answers

Schedule lag is dispatch − due. KS is the distance between the planned gaps and those between the requests' arrivals at
the server, by the kernel's stamps in its truth log. --azure replays a trace instead of the Poisson loads.

    python benchmarks/pacing.py --rounds 5 --seconds 20
    python benchmarks/pacing.py --rounds 1 --azure ../shared/data/azure_llm_2023_code.csv
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

from llmgen import machine
from llmgen.metrics.statistics import ks_distance
from llmgen.simulator import Endpoint, Options
from llmgen.simulator.truth import read_truth

LIMITS = Path(__file__).parent / "limits"
TOKENS = 4
LAG_P50_US, LAG_P99_RATIO, KS_RATIO = 200.0, 1.5, 1.3  # the targets
Row = dict[str, float]


def endpoint(a: argparse.Namespace, truth: Path) -> Endpoint:
    return Endpoint(Options(ttft="20ms", itl="1ms", cores=str(a.server_core), truth=str(truth)))


def distance(arrivals: np.ndarray, due: np.ndarray) -> float:
    found = ks_distance(np.diff(np.sort(arrivals)), np.diff(due))
    assert found is not None
    return found


def llmgen(a: argparse.Namespace, load: list[str], scratch: Path) -> tuple[Row, np.ndarray]:
    """One run; its figures, and the due times (ns after the start) that it was given."""
    truth = scratch / "llmgen.truth"
    with endpoint(a, truth) as server:
        cores = f"{a.client_core},{a.controller_core if a.controller_core is not None else a.client_core}"
        command = ["taskset", "-c", cores, sys.executable, "-m", "llmgen", "run", "--url", server.url]
        command += [*load, "--workers", "1", "--spin", a.spin, "--out", str(scratch / "runs"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=a.timeout)
    if done.returncode not in (0, 4):  # 4: the verdict may call it invalid; the figures say why
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    run = (scratch / "runs" / "latest").resolve()
    requests, info = np.load(run / "requests.npy"), json.loads((run / "run.json").read_text())
    core = info["workers_detail"][0]["cpu"]
    if core not in (None, a.client_core):
        raise SystemExit(f"the worker had core {core}, not {a.client_core}: give the controller a lower one")
    due = np.sort(requests["due"]) - info["start_ns"]
    lag = (requests["dispatch"] - requests["due"])[requests["dispatch"] >= 0] / 1e3
    arrivals = read_truth(truth).requests
    arrivals = arrivals["t"][arrivals["index"] >= 0]
    if not len(arrivals) == len(lag) == len(due):
        raise SystemExit(f"{len(due)} due, {len(lag)} sent, {len(arrivals)} at the server")
    p50, p99 = np.percentile(lag, (50, 99))
    summary = json.loads(done.stdout)
    row = {"llmgen_p50": float(p50), "llmgen_p99": float(p99), "llmgen_max": float(lag.max())}
    row |= {"llmgen_ks": distance(arrivals, due), "n": float(len(due))}
    row["llmgen_valid"] = float(summary["verdict"]["status"] == "valid")
    return row, due


def run_c(command: list[str], a: argparse.Namespace) -> dict[str, Any]:
    """What it printed. A session of its own with our niceness, as llmgen's workers have: all are scheduled alike."""
    done = subprocess.run(
        command,
        capture_output=True,
        check=True,
        timeout=a.timeout,
        start_new_session=True,
        preexec_fn=machine.carry_niceness,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def timer_loop(a: argparse.Namespace, due: np.ndarray, scratch: Path, *, sending: bool) -> Row:
    """The C loop on the same due times."""
    file, truth = scratch / "due", scratch / "c.truth"
    due.astype("<i8").tofile(file)
    spin_us = str(float(a.spin.removesuffix("us")))
    command = [str(LIMITS / "timerfd_loop"), "-f", str(file), "-o", str(a.client_core), "-s", spin_us]
    if not sending:
        told = run_c(command, a)
        return {"loop_p50": told["lag_us"]["p50"], "loop_p99": told["lag_us"]["p99"]}
    with endpoint(a, truth) as server:
        command += ["-p", server.url.rpartition(":")[2], "-t", str(TOKENS)]
        told = run_c(command, a)
    if told["answered"] != told["n"]:
        raise SystemExit(f"the C client had {told['answered']} answers of {told['n']}")
    ks = distance(read_truth(truth).requests["t"], due)
    return {"client_p50": told["lag_us"]["p50"], "client_p99": told["lag_us"]["p99"], "client_ks": ks}


def measure(a: argparse.Namespace, load: list[str], number: int, due: np.ndarray | None) -> tuple[Row, np.ndarray]:
    """A round. The due times of the round before (same seed, same plan) let the C programs go first in every other."""
    row: Row = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if number % 2 and due is not None:
            row |= timer_loop(a, due, scratch, sending=True) | timer_loop(a, due, scratch, sending=False)
        ours, planned = llmgen(a, load, scratch)
        row |= ours
        if "loop_p99" not in row:
            row |= timer_loop(a, planned, scratch, sending=False) | timer_loop(a, planned, scratch, sending=True)
    row["p99_ratio"] = row["llmgen_p99"] / row["loop_p99"]
    row["p99_ratio_client"] = row["llmgen_p99"] / row["client_p99"]
    row["ks_ratio"] = row["llmgen_ks"] / row["client_ks"]
    return row, planned


def loads(a: argparse.Namespace) -> dict[str, list[str]]:
    """Name → flags of `llmgen run`."""
    if a.azure:
        flags = ["--trace", a.azure, "--trace-format", "azure", "--trace-scale", str(a.trace_scale)]
        return {"azure": flags + (["--trace-window", a.trace_window] if a.trace_window else [])}
    short = ["--duration", f"{a.seconds}s", "--input-tokens", "16", "--output-tokens", str(TOKENS)]
    return {f"{rate:g}/s": ["--arrival", "poisson", "--rate", f"{rate:g}", *short] for rate in a.rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[200.0, 2000.0], metavar="R", help="requests/s")
    parser.add_argument("--seconds", type=int, default=20, help="of each program, round and rate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spin", default="0us", metavar="Nus", help="of llmgen and of the C programs")
    parser.add_argument("--azure", metavar="FILE", help="replay this trace instead")
    parser.add_argument("--trace-scale", type=float, default=10.0)
    parser.add_argument("--trace-window", metavar="A..B", help="only this part of the trace's own time")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--controller-core", type=int, help="may be used by the controller, which no C program has")
    parser.add_argument("--timeout", type=float, default=900.0, help="s, of one program")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds and the medians")
    a = parser.parse_args()
    subprocess.run(["make", "-s", "-C", str(LIMITS)], check=True)
    told = {}
    for name, load in loads(a).items():
        rows: list[Row] = []
        due = None
        for number in range(a.rounds):
            row, due = measure(a, load, number, due)
            rows.append(row)
            print(name, number, {key: round(value, 3) for key, value in row.items()}, flush=True)
        medians = {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}
        print(
            f"{name} medians (lag µs): p50 {medians['llmgen_p50']:.0f} (target {LAG_P50_US:.0f}), p99 "
            f"{medians['llmgen_p99']:.0f}, C loop {medians['loop_p99']:.0f}, ratio {medians['p99_ratio']:.2f} (target "
            f"{LAG_P99_RATIO}); KS at the server {medians['llmgen_ks']:.4f}, C client {medians['client_ks']:.4f}, "
            f"ratio {medians['ks_ratio']:.2f} (target {KS_RATIO})",
            flush=True,
        )
        told[name] = {"rounds": rows, "medians": medians}
    if a.json:
        a.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
