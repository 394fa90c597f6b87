"""Time, memory and disk of planning: a million requests of the `chat` mix, and the whole Mooncake conversation trace.

Each round plans, then lets numpy write the same content (numpy_pass.py says what that is) and as many plain bytes.
Ratios are of CPU time, medians over medians: the clock's depend on what else uses the disk. Each case runs in a
process of its own, so that the peak memory is its own.

    python benchmarks/plan_cost.py --rounds 9
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy_pass

from llmgen.config import Load, RunConfig, Target, Trace, merge
from llmgen.planning import PlanBuilder

MOONCAKE = Path(__file__).parents[2] / "shared" / "data" / "mooncake_conversation.jsonl"
TARGETS = "targets: at most 15 x, 300 MB of memory, 1 GB of disk"


def configuration(case: str, requests: int) -> RunConfig:
    target = Target(urls=("http://host",), model="m")
    if case == "chat":
        return merge(RunConfig(target=target, load=Load(rate=1000, requests=requests)), {"workload.mix": "chat"})
    return RunConfig(target=target, load=Load(trace=Trace(file=case)))


def measure(case: str, requests: int, rounds: int) -> None:
    config = configuration(case, requests)
    plans, contents, plains, seconds = [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder, built = Path(name), []

            def plan(folder: Path = folder, built: list[PlanBuilder] = built) -> None:
                built.append(PlanBuilder(config, folder / "plan", workers=2))
                built[0].write_all()

            wall, cpu = numpy_pass.timed(plan)
            peak_mb = numpy_pass.peak_mb()
            size = built[0].bytes_written
            _, content = numpy_pass.same_content(folder / "plan", folder)
            _, plain = numpy_pass.same_size(size, folder)
        for figures, one in ((plans, cpu), (contents, content), (plains, plain), (seconds, wall)):
            figures.append(one)
    median, fastest = (each(plans) / each(contents) for each in (statistics.median, min))
    print(
        f"{Path(case).stem}: {built[0].rows_written} requests, {built[0].planned_input / 1e6:.0f} M prompt tokens, "
        f"{size / 1e6:.0f} MB of disk; {statistics.median(seconds):.2f} s, peak RSS {peak_mb:.0f} MB; CPU: "
        f"{median:.1f} x numpy writing the same content ({fastest:.1f} x: both at their fastest), "
        f"{statistics.median(plans) / statistics.median(plains):.1f} x as many plain bytes",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        measure(arguments.case, arguments.requests, arguments.rounds)
        return
    for case in ["chat", *([str(MOONCAKE)] if MOONCAKE.is_file() else [])]:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--case", case], check=True, timeout=900)
    print(TARGETS)


if __name__ == "__main__":
    main()
