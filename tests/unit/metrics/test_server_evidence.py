"""Each rule on the server's evidence speaks where its pattern is, and is silent where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricate import MS, START, event_rows, request_rows, run_info, write_run
from fabricate_telemetry import Values, write_telemetry
from llmgen.metrics import server_evidence
from llmgen.metrics.figures import Finding
from llmgen.metrics.summary import summarise
from llmgen.records import open_run

RULES = {
    "server-restarted", "gpu-xid", "kv-cache-full", "server-queue", "cpu-bound", "gpu-throttling", "memory-creep",
    "added-on-the-way",
}  # fmt: skip
SECONDS = 120.0


def slower(rows: np.ndarray, *, ttft_ms: float = 0, gap_ms: float = 0) -> np.ndarray:
    """Requests due in the last third get so much more."""
    late = rows["due"] >= START + int(2 / 3 * SECONDS * 1e9)
    for name in ("headers", "first_byte", "first_event", "first_token", "first_visible", "last_token", "end"):
        rows[name][late] += int(ttft_ms * MS)
    for name in ("last_token", "end"):
        rows[name][late] += int(4 * gap_ms * MS)
    return rows


def found(directory: Path, values: Values, rows: np.ndarray | None = None, **more: Any) -> dict[str, Finding]:
    write_telemetry(directory, values, seconds=SECONDS, every_s=1.0, **more).close()
    rows = request_rows(1200) if rows is None else rows
    write_run(directory, rows, event_rows(rows), run_info(len(rows)))
    findings = summarise(open_run(directory)).diagnosis
    return {finding.rule: finding for finding in findings if finding.rule in RULES}


def after(t0: float, before: float, later: float) -> Any:
    return lambda t: before if t < t0 else later


HEALTHY: Values = {
    "running": lambda t: 8.0, "waiting": lambda t: 0.5, "kv_usage": lambda t: 0.6, "preemptions": lambda t: 4.0,
    "start_time": lambda t: 77.0, "cpu_time": lambda t: 0.3 * t, "rss": lambda t: 5e9 + 1e7 * (t % 7),
    "gpu_util[0]": lambda t: 0.9, "gpu_temperature[0]": lambda t: 70.0, "gpu_clock[0]": lambda t: 1.9e9,
    "gpu_memory_used[0]": lambda t: 7e10, "gpu_xid[0]": lambda t: 31.0, "gpu_thermal_violation[0]": lambda t: 9.0,
    "gpu_throttled[0]": lambda t: 0.0,
    "ttft.sum": lambda t: 0.049 * 10 * t, "ttft.count": lambda t: 10 * t,
    "queue_time.sum": lambda t: 0.001 * 10 * t, "queue_time.count": lambda t: 10 * t,
}  # fmt: skip


def test_a_healthy_server_is_accused_of_nothing(tmp_path: Path) -> None:
    assert found(tmp_path, HEALTHY) == {}


def test_without_telemetry_no_rule_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_evidence, "readings_of", lambda m: pytest.fail("looked"))
    rows = request_rows(20)
    write_run(tmp_path, rows, event_rows(rows), run_info(20))
    assert summarise(open_run(tmp_path)).server is None


def test_a_full_kv_cache_with_preemptions(tmp_path: Path) -> None:
    values = HEALTHY | {"kv_usage": after(80, 0.5, 0.99), "preemptions": lambda t: max(0.0, t - 80)}
    finding = found(tmp_path, values, slower(request_rows(1200), gap_ms=8))["kv-cache-full"]
    assert "preempted" in finding.suspicion
    assert "39 preemptions" in finding.evidence[1] or "40 preemptions" in finding.evidence[1]
    assert "10 → 18 ms" in finding.evidence[2]


def test_a_full_kv_cache_without_preemptions_lets_requests_wait(tmp_path: Path) -> None:
    finding = found(tmp_path, HEALTHY | {"kv_usage": after(80, 0.5, 0.97)})["kv-cache-full"]
    assert "wait" in finding.suspicion


def test_a_queue_that_grows_with_ttft(tmp_path: Path) -> None:
    values = HEALTHY | {"waiting": after(80, 0.5, 12.0)}
    finding = found(tmp_path, values, slower(request_rows(1200), ttft_ms=100))["server-queue"]
    assert "0.5 → 12 requests" in finding.evidence[0]
    assert found(tmp_path / "steady", values).get("server-queue") is None  # TTFT did not move


def test_a_full_cpu_before_an_idle_gpu(tmp_path: Path) -> None:
    values = HEALTHY | {"cpu_time": lambda t: 1.0 * t, "gpu_util[0]": lambda t: 0.2}
    finding = found(tmp_path, values)["cpu-bound"]
    assert "GPU busy 20% of the time" in finding.evidence
    assert found(tmp_path / "busy", HEALTHY | {"cpu_time": lambda t: 4.0 * t}) == {}


def test_an_unknown_gpu_is_not_an_idle_one(tmp_path: Path) -> None:
    values = {key: of for key, of in HEALTHY.items() if not key.startswith("gpu_util")}
    assert found(tmp_path, values | {"cpu_time": lambda t: 4.0 * t}) == {}


@pytest.mark.parametrize(
    "hot",
    [
        {"gpu_throttled[0]": lambda t: float(t % 4 == 0)},
        {"gpu_thermal_violation[0]": lambda t: 9 + 0.2 * t},
        {"gpu_temperature[0]": lambda t: 60 + t / 4, "gpu_clock[0]": lambda t: 1.9e9 - 4e6 * t},
    ],
)
def test_a_gpu_that_slows_down_when_hot(tmp_path: Path, hot: Values) -> None:
    assert set(found(tmp_path, HEALTHY | hot)) == {"gpu-throttling"}


def test_hot_alone_and_slow_alone_are_not_throttling(tmp_path: Path) -> None:
    assert found(tmp_path / "hot", HEALTHY | {"gpu_temperature[0]": lambda t: 88.0}) == {}
    assert found(tmp_path / "slow", HEALTHY | {"gpu_clock[0]": lambda t: 1.9e9 - 4e6 * t}) == {}


@pytest.mark.parametrize("key", ["rss", "gpu_memory_used[0]"])
def test_memory_that_only_grows(tmp_path: Path, key: str) -> None:
    finding = found(tmp_path, HEALTHY | {key: lambda t: 5e9 + 1e7 * t})["memory-creep"]
    assert "36,000 MB an hour" in finding.evidence[0].replace("3.6e+04", "36,000")


def test_memory_that_fills_and_stays_is_no_leak(tmp_path: Path) -> None:
    assert found(tmp_path, HEALTHY | {"rss": lambda t: min(9e9, 5e9 + 2e8 * t)}) == {}


def test_a_restart_is_told_with_its_time(tmp_path: Path) -> None:
    values = HEALTHY | {"start_time": after(60, 77.0, 9000.0)}
    finding = found(tmp_path, values, gap=(55.0, 62.0))["server-restarted"]
    assert finding.evidence[0] == "1 restart, seen at 62 s"
    assert "no answer from 55 to 62 s" in finding.evidence[1]


def test_a_new_xid_is_told_an_old_one_is_not(tmp_path: Path) -> None:
    finding = found(tmp_path, HEALTHY | {"gpu_xid[0]": after(30, 31.0, 79.0)})["gpu-xid"]
    assert finding.evidence[0].startswith("XID 79 on GPU 0 at 30 s")


def test_time_that_the_server_does_not_see(tmp_path: Path) -> None:
    values = HEALTHY | {"ttft.sum": lambda t: 0.020 * 10 * t}
    finding = found(tmp_path, values)["added-on-the-way"]
    assert "mean TTFT 50 ms at the client, 20 ms by the server" in finding.evidence[0]
    # others use the server, too: its mean is not of our requests
    shared = values | {"ttft.sum": lambda t: 0.020 * 30 * t, "ttft.count": lambda t: 30 * t}
    assert found(tmp_path / "shared", shared) == {}
