"""Time of writing a plan against one numpy pass that writes the same number of bytes, alternately; and its memory.

Prints every round and the medians. The plan: classes with lognormal and uniform lengths, Poisson arrivals.

    python benchmarks/plan_cost.py --requests 1000000 --rounds 5
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from llmgen.config import Klass, Load, RunConfig, Target, Workload
from llmgen.planning import PlanBuilder

MIX = {
    "short": Klass(weight=3, input="lognormal:128,100", output="lognormal:64,50", body={"temperature": 0}),
    "long": Klass(weight=1, input="lognormal:6000,4000", output="uniform:1,300"),
}
PASS_BYTES = 4 << 20  # a chunk of the numpy pass: about what the plan writes at a time


def write_plan(requests: int, folder: Path) -> tuple[float, float, int]:
    """Seconds to the first segment, seconds in all, bytes."""
    config = RunConfig(
        target=Target(urls=("http://host",), model="m"),
        load=Load(rate=1000, requests=requests),
        workload=Workload(mix=MIX),
    )
    start = time.perf_counter()
    builder = PlanBuilder(config, folder / "plan", workers=2)
    builder.write_next()
    first = time.perf_counter() - start
    builder.write_all()
    return first, time.perf_counter() - start, builder.bytes_written


def write_numpy(size: int, folder: Path) -> float:
    """Seconds of one pass that fills an array and writes it, `size` bytes in all."""
    chunk = np.empty(PASS_BYTES, np.uint8)
    start = time.perf_counter()
    with (folder / "numpy").open("wb") as file:
        for number in range(-(-size // PASS_BYTES)):
            chunk[:] = number & 0xFF
            file.write(chunk.data)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ratios, seconds = [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as name:
            first, whole, size = write_plan(arguments.requests, Path(name))
            plain = write_numpy(size, Path(name))
        ratios.append(whole / plain)
        seconds.append(whole)
        print(f"plan {whole:.3f} s (first segment {first:.3f}), {size / 1e6:.0f} MB", end="; ")
        print(f"numpy {plain:.3f} s: {ratios[-1]:.1f} x")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"median {statistics.median(seconds):.3f} s, {statistics.median(ratios):.1f} x; peak RSS {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
