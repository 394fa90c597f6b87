"""What a soak says of restarts and times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fabricate import MS, START, request_rows, run_info, write_run
from llmgen.config import RunConfig
from llmgen.metrics.conclusion import EXIT_CODES, Conclusion, Outage
from llmgen.metrics.figures import Trend
from llmgen.metrics.server_figures import Server, ServerMark
from llmgen.metrics.summary import summarise
from llmgen.records import open_run
from llmgen.series import Series, Suite, SuiteRun, Taken
from llmgen.strategies.soak import Parameters, Restart, clock, judged, restart_told, restarts_of, trends_told
from llmgen.strategies.taking import Test


class Summary(msgspec.Struct):
    server: Server | None


def summary(*restarts_at_s: float) -> Summary:
    marks = [ServerMark(kind="restart", t_s=t, until_s=None, source="u", what="vllm restarted") for t in restarts_at_s]
    marks.append(ServerMark(kind="unreachable", t_s=1.0, until_s=2.0, source="u", what="u: refused"))
    fields = dict.fromkeys(Server.__struct_fields__)
    return Summary(Server(**{**fields, "marks": tuple(marks)}))


def outage(at: float, until: float | None) -> Outage:
    return Outage(run=1, from_s=at, until_s=until, failures={"eof": 2, "connect_refused": 1000})


def test_an_outage_and_the_new_process_after_it_are_one_restart() -> None:
    found = restarts_of([outage(600.0, 614.0)], summary(613.0, 3000.0))
    assert found == [
        Restart(at_s=600.0, until_s=614.0, seen="1,002 requests failed, a new process"),
        Restart(at_s=3000.0, until_s=None, seen="a new process; no request was cut"),
    ]
    assert restart_told(found[0]) == "at 10:00, back after 14.0 s (1,002 requests failed, a new process)"
    assert restart_told(found[1]) == "at 50:00 (a new process; no request was cut)"


def test_several_replicas_that_restart_in_one_outage_are_told_once() -> None:
    (one,) = restarts_of([outage(600.0, None)], summary(620.0, 640.0))
    assert one.seen.count("process") == 1
    assert restarts_of([], Summary(None)) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1:00"), (754.6, "12:35"), (3723, "1:02:03")]
)
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def trend(metric: str, change: float, drifting: bool) -> Trend:
    return Trend(
        metric=metric, windows=54, width_s=60.0, slope_per_hour=1.0, change=change, tau=0.5, p_value=1e-6,
        drifting=drifting, worse=drifting,
    )  # fmt: skip


def test_what_drifts_is_told_alone() -> None:
    steady, rising = trend("ttft_from_due_p99_ms", 0.02, False), trend("server_rss_bytes", 0.23, True)
    assert trends_told([steady, rising]) == "the server's memory +23 % over the run (Mann-Kendall p 0.0001)"
    assert trends_told([steady]) == "nothing drifts over 54 windows of 60 s (p99 of TTFT from due +2 %)"


# -- verdicts ----------------------------------------------------------------------------------------------------------

MINUTES = 15


def soaked(path: Path, a_minute: float, **info: Any) -> Conclusion:
    """What is concluded of a run of generated records whose TTFT grows."""
    rows = request_rows(MINUTES * 120, every_ms=500)
    growth = (50 * MS * a_minute * (rows["due"] - START) / (60_000 * MS)).astype(np.int64)
    for name in ("headers", "first_byte", "first_event", "first_token", "first_visible", "last_token", "end"):
        rows[name] += growth
    told = run_info(len(rows), every_ms=500, config={"record": "requests", "slo": ["ttft_p95<80ms"]}, **info)
    directory = path / "0001"
    write_run(directory, rows, None, told)
    summary = summarise(open_run(directory))
    step = SuiteRun(number=1, seed=1, label="2 req/s", state="complete", verdict=summary.verdict.status)
    suite = Suite(kind="test-soak", name="s", fingerprint="f", config={}, runs=[step])
    test = Test("soak", "?", RunConfig(slo=("ttft_p95<80ms",)), Series(path, suite, {}), None)
    test.keep(Taken(step, directory, summary, 0))
    return judged(test, Parameters(length=MINUTES * 60))


def test_a_steady_server_passes(tmp_path: Path) -> None:
    found = soaked(tmp_path, 0.0)
    assert (found.verdict, found.reasons) == ("passed", [])
    assert len(found.steps) == 8
    assert found.answers[0].text == "15:00, 1,800 requests"
    assert EXIT_CODES[found.verdict] == 0


def test_drift_fails_it_though_the_goal_is_kept(tmp_path: Path) -> None:
    found = soaked(tmp_path, 0.02)
    assert found.verdict == "failed"
    assert EXIT_CODES[found.verdict] == 3
    assert all("drifts" in reason for reason in found.reasons)
    assert any(reason.startswith("median TTFT from due drifts: +2") for reason in found.reasons)
    assert found.figures["drift.ttft_from_due_p50_ms"] == pytest.approx(0.28 / 1.14, rel=0.05)
    assert found.figures["attainment"] == 1.0


def test_the_goal_counts_too(tmp_path: Path) -> None:
    found = soaked(tmp_path, 0.06)
    assert any("were good, 95 % are wanted" in reason for reason in found.reasons)
