"""Checks of this machine, with the facts that a kernel would tell put in their place."""

from __future__ import annotations

import os
import time

import pytest

from llmgen import machine
from llmgen.checks import local
from llmgen.checks.findings import Level
from llmgen.config import Client, RunConfig
from llmgen.metrics.verdict import Thresholds


@pytest.mark.parametrize(
    ("cores", "quota", "workers", "level", "cure"),
    [
        ([0, 1, 2, 3], None, 2, Level.ok, None),
        ([0, 1, 2, 3], 4.0, 3, Level.ok, None),
        ([0], None, None, Level.warn, "two cores"),
        ([0, 1, 2, 3], 2.5, None, Level.warn, "quota"),
        ([0, 1], None, 4, Level.warn, "--workers 1"),
    ],
)
def test_cores(
    cores: list[int],
    quota: float | None,
    workers: int | None,
    level: Level,
    cure: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: cores)
    monkeypatch.setattr(machine, "quota_cores", lambda: quota)
    found = local.cores(RunConfig(client=Client(workers=workers)))
    assert found.level is level
    assert (cure or "") in (found.cure or "")


def test_pinning_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "affinity", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(machine, "quota_cores", lambda: None)
    assert "2 workers pinned to 3, 2" in local.cores(RunConfig(client=Client(workers=2))).found
    assert "not pinned" in local.cores(RunConfig(client=Client(pin=False))).found


def test_the_kernel_stamps_before_we_read() -> None:
    lags = local.kernel_stamp_lags()
    assert len(lags) == local.PROBES
    assert all(0 <= lag < 60e9 for lag in lags)


def test_a_kernel_without_stamps_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SO_TIMESTAMPNS", 9999)
    assert local.kernel_stamp_lags() == []
    assert local.stamps(RunConfig()).level is Level.warn
    assert local.stamps(RunConfig(client=Client(stamps="user"))).level is Level.ok


def test_late_timers_are_held_against_the_verdicts_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1e9) + 3_000_000

    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(machine, "timer_loop", lambda: {"p50_us": 70.0, "p99_us": 2500.0})
    found = local.timer(Thresholds())
    assert found.level is Level.warn
    assert found.data["p99_us"] == pytest.approx(3000)
    assert "selfbench's C loop 70 and 2500" in found.found
    assert local.timer(Thresholds(suspect_lag_ms=5.0)).level is Level.ok


def test_steal_and_other_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.2, 0.2, 0.2))
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    assert local.steal((10, 1000), (11, 1200), Thresholds()).level is Level.ok
    found = local.steal((10, 1000), (20, 1200), Thresholds())
    assert (found.level, found.data["steal_pct"]) == (Level.warn, 5.0)
    assert local.steal((0, 0), (0, 0), Thresholds()).found.startswith("steal not told")
    monkeypatch.setattr(os, "getloadavg", lambda: (1.9, 0.2, 0.2))
    assert "other programs" in str(local.steal((10, 1000), (10, 1200), Thresholds()).cure)


def test_proxies_are_named_only_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in local.PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert local.proxies() == []
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert "HTTPS_PROXY ignored" in local.proxies()[0].found


def test_clock_costs_something() -> None:
    assert local.clock().data["read_ns"] > 0
