"""What a run's conclusions cost: summary.json and report.html, in time of one `np.sort` of 10 M values, and memory.

    python benchmarks/summary_cost.py [--requests 50000 --events 10000000 | --level requests --requests 1000000]

Prints one JSON object. The targets: 10 M token events of 50,000 requests ≤ 12 sorts and ≤ 1.5 GB; report.html ≤ 8 MB;
1 M requests at level `requests` ≤ 12 sorts. Ratios of processor times, because machines differ and are shared; each is
the best of five.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from fabricate import MS, START, request_rows, run_info, write_run
from llmgen.columns import EVENT_DTYPE, HISTOGRAM_DTYPE, Histogram, Kind, Status

SORTED = 10_000_000
REPEATS = 5


def fabricate(path: Path, requests: int, events: int | None) -> Path:
    """A run of exponential waits and gaps in two classes, 1 % errors, events in order of arrival, as workers write."""
    rng = np.random.default_rng(1)
    every_ms = 600_000 / requests  # ten minutes
    tokens = max(2, (events or requests * 200) // requests)
    rows = request_rows(requests, every_ms=every_ms, tokens=tokens)
    rows["klass"] = rng.integers(0, 2, requests)
    rows["planned_input"] = rows["input_tokens"] = rng.lognormal(6, 0.6, requests).astype(np.int32)
    first = rows["send"] + (rng.exponential(80, requests) * MS).astype(np.int64)
    for name in ("first_event", "first_token", "first_visible", "headers", "first_byte"):
        rows[name] = first
    made = None
    if events is not None:
        gaps = (rng.exponential(20, (requests, tokens)) * MS).astype(np.int64)
        gaps[:, 0] = 0
        t = first[:, None] + np.cumsum(gaps, axis=1)
        rows["last_token"], rows["max_gap"] = t[:, -1], gaps.max(axis=1)
        made = np.zeros(requests * tokens, EVENT_DTYPE)
        made["t"], made["tokens"], made["kind"] = t.ravel(), 1, Kind.text
        made["request"] = np.repeat(np.arange(requests, dtype=np.uint32), tokens)
        made = made[np.argsort(made["t"], kind="stable")]
    else:
        rows["last_token"] = first + (rng.gamma(tokens - 1, 20, requests) * MS).astype(np.int64)
    rows["end"] = rows["last_token"] + MS
    failed = rng.random(requests) < 0.01
    rows["status"][failed], rows["http_status"][failed] = Status.http_5xx, 503
    info = run_info(requests, every_ms=every_ms, classes=[{"name": "a", "slo": []}, {"name": "b", "slo": []}])
    info["config"] = {"record": "requests" if events is None else "events", "slo": ["ttft_p99<1s", "tpot<50ms"]}
    return write_run(path, rows, made, info, None if events is not None else histograms(rng))


def histograms(rng: np.random.Generator) -> np.ndarray:
    """Ten minutes of gaps in two classes, some 600 buckets each."""
    out = np.zeros(10 * 2 * 600 * 2, HISTOGRAM_DTYPE)
    shape = (10, 2, 2, 600)
    minute, klass, metric, bucket = (axis.ravel() for axis in np.indices(shape))
    out["minute"], out["klass"] = minute, klass
    out["metric"] = np.array([Histogram.gap, Histogram.itl])[metric]
    out["bucket"], out["count"] = 500 + bucket, rng.integers(1, 5000, len(out))
    return out


def best(work: Callable[[], object], times: int = REPEATS) -> float:
    took = []
    for _ in range(times):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return min(took)


def measure(path: Path) -> dict[str, float]:
    """In a process of its own, so that the peak is that of the summary alone."""
    from llmgen.metrics.summary import summarise
    from llmgen.records import open_run
    from llmgen.report.html import write_html

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary_s = best(lambda: summarise(open_run(path)), 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = np.random.default_rng(2).exponential(20e6, SORTED)
    sort_s = best(lambda: np.sort(values), 1)
    for _ in range(REPEATS - 1):  # in turns: both see the same machine
        summary_s = min(summary_s, best(lambda: summarise(open_run(path)), 1))
        sort_s = min(sort_s, best(lambda: np.sort(values), 1))
    run = open_run(path)
    summary = summarise(run)
    html_s = best(lambda: write_html(run, summary), 1)
    size = (path / "report.html").stat().st_size
    peak_html = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "sort_s": round(sort_s, 3),
        "summary_s": round(summary_s, 3),
        "summary_sorts": round(summary_s / sort_s, 2),
        "summary_peak_mb": round(peak / 1024),
        "before_mb": round(before / 1024),
        "html_s": round(html_s, 3),
        "html_sorts": round(html_s / sort_s, 2),
        "html_peak_mb": round(peak_html / 1024),
        "html_mb": round(size / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--level", choices=("events", "requests"), default="events")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.measure is not None:
        print(json.dumps(measure(told.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = fabricate(Path(folder) / "run", told.requests, told.events if told.level == "events" else None)
        assert START > 0
        subprocess.run([sys.executable, __file__, "--measure", str(path)], check=True, timeout=600)


if __name__ == "__main__":
    main()
