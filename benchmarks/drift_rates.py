"""How often a soak's drift verdict finds a planted drift, and how often it accuses a steady run.

    python benchmarks/drift_rates.py [--seeds 20] [--minutes 30]

Records are generated: requests at a constant rate whose TTFT and gaps are lognormal and wander from minute to minute
with memory, as a server's do. The drifting ones grow by 1 % a minute. Both record levels are judged: at `requests` the
gaps are known from the histograms of each minute only. Targets of 20 seeds: found in at least 18, accused in at most 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from llmgen.columns import HISTOGRAM_DTYPE, Histogram, bucket_bounds_ns
from llmgen.metrics import breakdown, stability
from llmgen.metrics.measurements import Measurements
from llmgen.records import open_run

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fabricate import MS, START, request_rows, run_info, write_run

FOUND, ACCUSED = 0.9, 0.05
RATE_PER_S: Final = 10
TOKENS: Final = 20
WANDER: Final = 0.03  # standard deviation of a minute's level,
MEMORY: Final = 0.5  # and its correlation with the minute before


def records(path: Path, level: str, seed: int, minutes: int, a_minute: float) -> Path:
    """A run directory of generated records; a_minute: how much latencies grow by."""
    rng = np.random.default_rng(seed)
    rows = request_rows(minutes * 60 * RATE_PER_S, every_ms=1000 / RATE_PER_S, tokens=TOKENS)
    minute = np.minimum((rows["due"] - START) // (60_000 * MS), minutes - 1).astype(np.int64)
    factor = levels(rng, minutes) * (1 + a_minute) ** np.arange(minutes)
    ttft = 200 * MS * factor[minute] * rng.lognormal(0, 0.5, len(rows))
    gaps = 20 * MS * factor[minute][:, None] * rng.lognormal(0, 0.3, (len(rows), TOKENS - 1))
    rows["first_token"] = rows["first_visible"] = rows["first_event"] = rows["send"] + ttft.astype(np.int64)
    t = rows["first_token"][:, None] + np.cumsum(gaps, 1).astype(np.int64)
    rows["last_token"], rows["end"], rows["max_gap"] = t[:, -1], t[:, -1] + MS, gaps.max(1)
    info = run_info(len(rows), every_ms=1000 / RATE_PER_S, config={"record": level, "slo": []})
    if level == "requests":
        return write_run(path, rows, None, info, by_minute(t, gaps))
    events = np.zeros(len(rows) * TOKENS, np.dtype([("t", "<i8"), ("request", "<u4")]))
    events["t"] = np.column_stack([rows["first_token"], t]).ravel()
    events["request"] = np.repeat(np.arange(len(rows)), TOKENS)
    return write_run(path, rows, as_events(events), info)


def levels(rng: np.random.Generator, minutes: int) -> np.ndarray:
    """A first-order autoregressive course around 1."""
    course = np.empty(minutes)
    course[0] = rng.normal(0, WANDER)
    for at in range(1, minutes):
        course[at] = MEMORY * course[at - 1] + rng.normal(0, WANDER * np.sqrt(1 - MEMORY**2))
    return np.exp(course)


def by_minute(t: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    bucket = np.searchsorted(bucket_bounds_ns(), gaps.ravel(), side="right") - 1
    minute = ((t.ravel() - START) // (60_000 * MS)).astype(np.int64)
    keys, counts = np.unique(minute << 32 | bucket, return_counts=True)
    rows = np.zeros(len(keys), HISTOGRAM_DTYPE)
    rows["minute"], rows["bucket"], rows["count"] = keys >> 32, keys & 0xFFFFFFFF, counts
    rows["metric"] = Histogram.itl
    return rows


def as_events(events: np.ndarray) -> np.ndarray:
    from llmgen.columns import EVENT_DTYPE, Kind

    rows = np.zeros(len(events), EVENT_DTYPE)
    rows["t"], rows["request"], rows["tokens"], rows["kind"] = events["t"], events["request"], 1, Kind.text
    return rows[np.argsort(rows["t"], kind="stable")]


def drifting(path: Path) -> set[str]:
    m = Measurements(open_run(path))
    return {trend.metric for trend in stability.trends_of(m, breakdown.windows_of(m)) if trend.drifting}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--minutes", type=int, default=30)
    a = parser.parse_args()
    kept = True
    for level in ("events", "requests"):
        for name, a_minute in (("steady", 0.0), ("1 % a minute", 0.01)):
            found: list[set[str]] = []
            for seed in range(a.seeds):
                with tempfile.TemporaryDirectory() as scratch:
                    found.append(drifting(records(Path(scratch), level, seed, a.minutes, a_minute)))
            times = sum(bool(one) for one in found)
            what = ", ".join(f"{m} {sum(m in one for one in found)}" for m in sorted(set().union(*found)))
            print(f"level {level}, {name}: a drift in {times} of {a.seeds} seeds ({what or 'none'})")
            kept &= times >= FOUND * a.seeds if a_minute else times <= ACCUSED * a.seeds
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
