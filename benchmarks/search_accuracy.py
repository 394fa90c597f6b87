"""llmgen search on an engine against the capacity that the engine's offline model gives for the same objectives.

    nice -n -20 python benchmarks/search_accuracy.py [--rounds 2] [--seed 1]

Both by one definition (docs/search.md): the largest rate at which the lower end of the interval of the share of
requests with TTFT < 150 ms and TPOT < 50 ms reaches 99 %. The offline model takes SEEDS Poisson loads of SECONDS each
at every rate and bisects to 0.1 %; the search has at most 12 runs of 30 s over loopback.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from llmgen.metrics.operating_point import effective
from llmgen.metrics.statistics import wilson_interval
from llmgen.simulator import Endpoint, Options, simulate

# 64 sequences at 12 ms a step with all of them: 4,300 tokens/s at the capacity, which two cores carry with room.
ENGINE = "tiny,max_seqs=64,step=8ms,max_batched_tokens=2048,kv_blocks=4096"
INPUT, OUTPUT = 64, 32
TTFT_MS, TPOT_MS = 150, 50
TARGET, CONFIDENCE = 0.99, 0.95
SECONDS, CUT, SEEDS = 600.0, 10.0, 8
BATCHES = 100  # of each load: 6 s, many times a request's life


def meets(rate: float) -> tuple[bool, float]:
    """Whether the engine meets the objectives at a rate, and the share of good requests."""
    good = total = independent = 0.0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        due = np.cumsum(rng.exponential(1e9 / rate, int(rate * SECONDS))).astype(np.int64)
        lengths = np.full(len(due), INPUT), np.full(len(due), OUTPUT)
        found = simulate(due, *lengths, ENGINE, seed=seed)
        ttft = (found.first_token - found.arrival) / 1e6
        tpot = (found.last_token - found.first_token) / 1e6 / (OUTPUT - 1)
        kept = (found.admission == 0) & (ttft < TTFT_MS) & (tpot < TPOT_MS)
        kept = kept[due >= CUT * 1e9]
        n = effective(kept, BATCHES)
        good, independent, total = good + kept.mean() * n, independent + n, total + len(kept)
    ends = wilson_interval(good, independent, 2 * CONFIDENCE - 1)
    assert ends is not None
    return ends[0] >= TARGET, good / independent


def offline() -> float:
    low, high = 10.0, 1000.0
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if meets(middle)[0] else (low, middle)
    return low


def searched(folder: str, seed: int) -> dict[str, object]:
    """suite.json's conclusion of one search."""
    with Endpoint(Options(engine=ENGINE)) as endpoint:
        command = [
            *(sys.executable, "-m", "llmgen", "search", "--url", endpoint.url, "--out", folder, "--json"),
            *("--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT), "--rate-min", "10", "--tolerance", "0.03"),
            *("--slo", f"ttft<{TTFT_MS}ms", "--slo", f"tpot<{TPOT_MS}ms", "--target", str(TARGET)),
            *("--confidence", str(CONFIDENCE), "--runs", "12", "--duration", "30s", "--seed", str(seed)),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    suite = json.loads(done.stdout)
    for run in suite["runs"]:
        tokens = json.loads((next(Path(folder).glob(f"*/{run['directory']}/summary.json"))).read_text())["tokens"]
        assert tokens["input"] == tokens["planned_input"], "the engine counted other prompts than the offline model"
    return suite["conclusion"]  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next have 1,000 more each")
    options = parser.parse_args()
    true = offline()
    print(f"offline model: {true:.1f} req/s ({meets(true)[1]:.2%} good)", flush=True)
    for number in range(1, options.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            found = searched(folder, options.seed + 1000 * (number - 1))
        points = found["points"]
        assert isinstance(points, list)
        capacity = found["capacity"]
        ratio = capacity / true if isinstance(capacity, float | int) else float("nan")
        verdicts = ", ".join(f"{point['rate']:g}:{point['client']}" for point in points)
        print(
            f"search {number}: {found['outcome']}, {capacity} req/s, above it {found['upper']}, "
            f"fit {found['estimate']:.1f}, {len(points)} runs; search / offline = {ratio:.3f}\n  {verdicts}",
            flush=True,
        )


if __name__ == "__main__":
    main()
