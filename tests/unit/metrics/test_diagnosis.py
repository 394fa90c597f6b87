"""Each rule speaks of the run that has its pattern, with the numbers, and is silent about a healthy one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricate import MS, START, event_rows, request_rows, run_info, write_run
from llmgen.columns import HISTOGRAM_DTYPE, Histogram, Status
from llmgen.metrics.figures import Finding
from llmgen.metrics.summary import summarise
from llmgen.records import open_run


def findings(
    path: Path, rows: np.ndarray, events: np.ndarray | None = None, histograms: np.ndarray | None = None, **info: Any
) -> dict[str, Finding]:
    made = event_rows(rows) if events is None else events
    run = open_run(write_run(path / "run", rows, made, run_info(len(rows), **info), histograms))
    return {finding.rule: finding for finding in summarise(run).diagnosis}


def shift(rows: np.ndarray, ms: np.ndarray) -> None:
    for name in ("first_token", "first_visible", "first_event", "last_token", "end"):
        rows[name] += (ms * MS).astype(np.int64)


def ramp(
    *, ttft_ms: tuple[float, float], gap_ms: tuple[float, float], rate: tuple[float, float], power: int = 1
) -> np.ndarray:
    """Requests whose rate, TTFT and gaps go from the first to the second value over 60 s; 20 tokens each.

    power: 2 lets the gaps rise with the square of the time.
    """
    t, due = 0.0, []
    while t < 60:
        due.append(t)
        t += 1 / (rate[0] + (rate[1] - rate[0]) * t / 60)
    rows = request_rows(len(due), tokens=20)
    share = np.array(due) / 60
    delta = START + (np.array(due) * 1e9).astype(np.int64) - rows["due"]
    for name in ("due", "dispatch", "acquired", "connect_start", "connected", "send", "sent"):
        rows[name] += delta
    first = rows["send"] + ((ttft_ms[0] + (ttft_ms[1] - ttft_ms[0]) * share) * MS).astype(np.int64)
    gap = ((gap_ms[0] + (gap_ms[1] - gap_ms[0]) * share**power) * MS).astype(np.int64)
    for name in ("headers", "first_byte", "first_event", "first_token", "first_visible"):
        rows[name] = first
    rows["last_token"] = first + 19 * gap
    rows["max_gap"] = gap
    rows["end"] = rows["last_token"]
    return rows


def streamed(rows: np.ndarray) -> np.ndarray:
    events = event_rows(rows)
    n = int(rows["token_events"][0])
    gap = (rows["last_token"] - rows["first_token"]) // (n - 1)
    place = np.tile(np.arange(n), len(rows))
    events["request"] = np.repeat(np.arange(len(rows)), n)
    events["t"] = np.repeat(rows["first_token"], n) + place * np.repeat(gap, n)
    return events


def over_a_minute(path: Path, rows: np.ndarray) -> dict[str, Finding]:
    end = START + 60_000 * MS
    window = {"start_ns": START, "end_ns": end}
    return findings(path, rows, streamed(rows), window=window, end_ns=end + 1000 * MS)


def test_a_healthy_run_has_nothing_to_say(tmp_path: Path) -> None:
    rows = request_rows(300, tokens=20)
    shift(rows, np.random.default_rng(1).exponential(10, 300))
    assert findings(tmp_path, rows) == {}
    assert over_a_minute(tmp_path / "b", ramp(ttft_ms=(100, 100), gap_ms=(20, 20), rate=(10, 11))) == {}


def test_queueing(tmp_path: Path) -> None:
    found = over_a_minute(tmp_path, ramp(ttft_ms=(50, 600), gap_ms=(20, 20), rate=(10, 12)))
    assert "queueing" in found
    assert "decode-capacity" not in found
    assert any("TTFT from due" in line and "→" in line for line in found["queueing"].evidence)
    assert any("ITL 20 → 20 ms" in line for line in found["queueing"].evidence)


def test_saturation(tmp_path: Path) -> None:
    """A server of 10 requests/s under a load of 5 to 30/s: past 10/s the tokens stay flat, and the queue grows."""
    rows = ramp(ttft_ms=(50, 50), gap_ms=(5, 5), rate=(8, 40))
    due = (rows["due"] - START) / 1e9
    free = 0.0
    wait = np.zeros(len(rows))
    for i, t in enumerate(due):
        free = max(free, t) + 0.1
        wait[i] = free - t
    shift(rows, wait * 1000)
    found = over_a_minute(tmp_path, rows)
    assert "saturation" in found
    assert "offered rate" in found["saturation"].evidence[0]
    assert "batching-delay" not in found


def test_decode_capacity(tmp_path: Path) -> None:
    rows = ramp(ttft_ms=(50, 50), gap_ms=(20, 200), rate=(20, 5))
    found = over_a_minute(tmp_path, rows)
    # ordered by rate the slow gaps are where there is least load, so it is the time that tells
    assert "decode-capacity" not in found
    rows = ramp(ttft_ms=(50, 50), gap_ms=(20, 400), rate=(10, 10.5), power=2)
    assert "decode-capacity" in over_a_minute(tmp_path / "b", rows)


def test_batching_delay(tmp_path: Path) -> None:
    found = over_a_minute(tmp_path, ramp(ttft_ms=(50, 120), gap_ms=(20, 26), rate=(5, 20)))
    assert set(found) == {"batching-delay"}
    assert len(found["batching-delay"].evidence) == 4


def test_errors_only_in_spikes(tmp_path: Path) -> None:
    rows = request_rows(600)
    rows["status"][300:310] = Status.reset
    found = findings(tmp_path / "a", rows)["error-spikes"]
    assert "10 of 10 failed requests" in found.evidence[0]
    assert "30 s" in found.evidence[0]
    spread = request_rows(600)
    spread["status"][::60] = Status.reset
    assert "error-spikes" not in findings(tmp_path / "b", spread)


def test_cold_start(tmp_path: Path) -> None:
    rows = request_rows(100)
    shift(rows, np.where(np.arange(100) < 8, 2000.0, 0.0))
    found = findings(tmp_path, rows)["cold-start"]
    assert "first 5 requests 2050 ms, of the others 50 ms" in found.evidence[0]
    assert found.evidence[1].startswith("8 requests in a row")


def test_ttft_linear_in_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = request_rows(200)
    rows["input_tokens"] = rng.integers(100, 8000, 200)
    shift(rows, rows["input_tokens"] * 0.2 + rng.normal(0, 5, 200))
    found = findings(tmp_path / "a", rows)["ttft-linear-in-input"]
    assert "5,0" in found.evidence[1] or "4,9" in found.evidence[1]  # 0.2 ms a token
    plain = request_rows(200)
    plain["input_tokens"] = rows["input_tokens"]
    shift(plain, rng.exponential(100, 200))
    assert "ttft-linear-in-input" not in findings(tmp_path / "b", plain)


def test_delayed_ack(tmp_path: Path) -> None:
    """Tokens every 20 ms that Nagle's algorithm lets out by twos, 40.5 ms apart; steady 40 ms tokens are none."""
    rows = request_rows(50, tokens=20)
    events = event_rows(rows)
    order = np.lexsort((events["t"], events["request"]))
    events = events[order]
    place = np.tile(np.arange(20), 50)
    first = np.repeat(rows["first_token"], 20)
    events["t"] = first + (place + 1) // 2 * int(40.5 * MS)
    assert "delayed-ack" in findings(tmp_path / "a", rows, events)
    events["t"] = first + place * int(40.5 * MS)
    assert "delayed-ack" not in findings(tmp_path / "b", rows, events)


def drain(us_bucket: int) -> np.ndarray:
    rows = np.zeros(1, HISTOGRAM_DTYPE)
    rows["metric"], rows["bucket"], rows["count"] = Histogram.drain_lag, us_bucket, 1000
    return rows


def test_a_buffering_proxy(tmp_path: Path) -> None:
    rows = request_rows(50, tokens=20)
    rows["reads"] = 1
    rows["last_token"] = rows["first_token"]
    events = event_rows(rows, gap_ms=0)
    found = findings(tmp_path / "a", rows, events, drain(300))["buffering-proxy"]
    assert "50 of 50 streams" in found.evidence[0]
    # we were late ourselves: then it may have been our reading that put them together
    assert "buffering-proxy" not in findings(tmp_path / "b", rows, events, drain(64 * 13))
    assert "buffering-proxy" not in findings(tmp_path / "c", request_rows(50, tokens=20), None, drain(300))


@pytest.mark.parametrize("seconds", [1.02, 3.05])
def test_dropped_syns(tmp_path: Path, seconds: float) -> None:
    rows = request_rows(100)
    rows["connected"][10:20] = rows["connect_start"][10:20] + int(seconds * 1e9)
    found = findings(tmp_path / "a", rows)["accept-queue"]
    assert "10 of 100 connects" in found.evidence[0]
    rows["connected"][10:60] = rows["connect_start"][10:60] + (np.linspace(1.5, 9, 50) * 1e9).astype(np.int64)
    assert "accept-queue" not in findings(tmp_path / "b", rows)
