"""Recovery and autoscaling delay as `llmgen test` sees them from outside, against the embedded engine's truth log.

    python benchmarks/strategy_truth.py [--runs N]

Stress on an engine whose queue has no limit, and a spike on one that adds replicas (with and without a slow warm-up).
The truth is what the engine's log says: recovery by the same definition over its own arrivals and first tokens, the
delay from the step up to the moment when the next replica is ready. Exit code 1 if one of them is off by more than
10 % and more than 1 s.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmgen.config import Client, Load, RunConfig, Target, Workload
from llmgen.metrics.conclusion import Conclusion
from llmgen.metrics.recovery import recovered_at
from llmgen.metrics.summary import read_summary
from llmgen.records import open_run
from llmgen.series import Series, opened
from llmgen.simulator import Endpoint, Options
from llmgen.simulator.truth import Truth, read_truth, timing
from llmgen.strategies import spike, stress

TTFT_LIMIT_S = 0.3
TARGET = 0.95
PLAIN = "tiny,max_waiting=0"
SCALED = "autoscaled"
SCALED_AT_ONCE = "autoscaled,warmup_steps=0"


class Compared(NamedTuple):
    what: str
    seen: float | None
    true: float | None

    @property
    def off(self) -> float:
        if self.seen is None or self.true is None:
            return 0.0 if self.seen is self.true else math.inf
        return abs(self.seen - self.true)

    @property
    def holds(self) -> bool:
        return self.off <= max(1.0, 0.1 * (self.true or 0.0))


def configuration(url: str, out: Path, rate: float, seed: int) -> RunConfig:
    return RunConfig(
        out=str(out),
        seed=seed,
        target=Target(urls=(url,)),
        load=Load(rate=rate, drain=20.0),
        workload=Workload(input=64, output=64),
        client=Client(workers=1),
        slo=(f"ttft_from_due_p95<{1000 * TTFT_LIMIT_S:g}ms",),
        # a noisy machine is not what is asked about here
        verdict={"suspect_lag_ms": 1e3, "invalid_lag_ms": 1e4},
    )


def true_recovery(truth: Truth, start_ns: int, after_s: float, until_s: float) -> float | None:
    """By the log: seconds from `after_s` on."""
    rows = truth.requests[(truth.requests["t"] >= start_ns) & (truth.requests["t"] < start_ns + until_s * 1e9)]
    times = timing(truth)
    ttft = dict(zip(times.serial.tolist(), times.ttft.tolist(), strict=True))
    good = np.array([0 <= ttft.get(int(serial), -1) < TTFT_LIMIT_S * 1e9 for serial in rows["serial"]])
    found = recovered_at((rows["t"] - start_ns) / 1e9, good, TARGET, after_s, until_s)
    return None if found is None else found - after_s


def stressed(out: Path, seed: int) -> list[Compared]:
    log = out / "truth.log"
    with Endpoint(Options(engine=PLAIN, truth=str(log))) as endpoint:
        config = configuration(endpoint.url, out, 30.0, seed)
        parameters = stress.Parameters(hold=8.0, watch=25.0)
        with opened(config, "test-stress", quiet=True) as series:
            conclusion = stress.run(config, series, parameters)
    course = conclusion.course
    assert course is not None
    up, down = course.marks[0].t_s, course.marks[1].t_s
    true = true_recovery(read_truth(log), started(series, course.run), down, down + parameters.watch)
    told(conclusion, series)
    return [Compared(f"stress: recovery after {down - up:g} s of overload", conclusion.figures["recovery_s"], true)]


def spiked(out: Path, engine: str, seed: int) -> list[Compared]:
    log = out / "truth.log"
    with Endpoint(Options(engine=engine, truth=str(log))) as endpoint:
        config = configuration(endpoint.url, out, 25.0, seed)
        parameters = spike.Parameters(factor=3.5, spikes=1, before=10.0, spike=30.0, watch=20.0)
        with opened(config, "test-spike", quiet=True) as series:
            conclusion = spike.run(config, series, parameters)
    truth, start = read_truth(log), started(series, 1)
    up, down = parameters.before, parameters.before + parameters.spike
    ready = (truth.marked("ready")["t"] - start) / 1e9
    ready = np.sort(ready[(ready > up) & (ready < down)])
    figures = conclusion.figures
    told(conclusion, series)
    return [
        Compared(
            f"{engine}: autoscaling delay",
            figures["spike_1.scaling_delay_s"],
            float(ready[0] - up) if len(ready) else None,
        ),
        Compared(f"{engine}: spike taken in", figures["spike_1.taken_in_s"], true_recovery(truth, start, up, down)),
        Compared(
            f"{engine}: spike got over",
            figures["spike_1.recovered_s"],
            true_recovery(truth, start, down, down + parameters.watch),
        ),
    ]


def started(series: Series, number: int) -> int:
    return int(open_run(series.directory / f"{number:04d}").info["start_ns"])


def told(conclusion: Conclusion, series: Series) -> None:
    """What was concluded, and how late our own client was: a machine that stands still is seen as a slow server."""
    for run in series.suite.runs:
        lag = read_summary(series.directory / str(run.directory)).load.own_lag_ms
        late = "unknown" if lag is None else f"p99 {lag.p99:.1f} ms, max {lag.max:.0f} ms"
        print(f"    run {run.number} ({run.label}): our own lag {late}")
    for one in conclusion.answers:
        print(f"    {one.question}: {one.text}")
    for finding in conclusion.findings:
        print(f"    diagnosis: {finding.rule}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    compared: list[Compared] = []
    for seed in range(1, arguments.runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            compared += stressed(Path(folder), seed)
        for engine in (SCALED_AT_ONCE, SCALED):
            with tempfile.TemporaryDirectory() as folder:
                compared += spiked(Path(folder), engine, seed)
    print(f"{'':50} {'seen s':>8} {'true s':>8} {'off s':>7}")
    for one in compared:
        seen, true = ("–" if value is None else f"{value:.2f}" for value in (one.seen, one.true))
        print(f"{one.what:50} {seen:>8} {true:>8} {one.off:7.2f}  {'holds' if one.holds else 'MISSED'}")
    return 0 if all(one.holds for one in compared) else 1


if __name__ == "__main__":
    sys.exit(main())
