"""A run's summary: shape, identity, window, groups, objectives, levels; and the verdict and exit code that follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fabricate import MS, START, event_rows, never_sent, request_rows, run_info, write_run, write_segments
from llmgen.columns import HISTOGRAM_BUCKETS, HISTOGRAM_DTYPE, Histogram, Status, bucket_bounds_ns
from llmgen.errors import RecordError
from llmgen.metrics.figures import Summary
from llmgen.metrics.summary import encode, read_summary, summarise, write_summary
from llmgen.metrics.verdict import Thresholds, exit_code
from llmgen.records import open_run
from llmgen.report.text import arrivals_text


def summary_of(
    path: Path,
    rows: np.ndarray,
    *,
    events: bool = True,
    histograms: np.ndarray | None = None,
    slo: Any = (),
    **info: Any,
) -> Summary:
    told = run_info(len(rows), **info)
    told["config"] = {"record": "events" if events else "requests", "slo": list(slo), **info.get("config", {})}
    run = write_run(path / "run", rows, event_rows(rows) if events else None, told, histograms)
    return summarise(open_run(run))


def fail(rows: np.ndarray, which: Any, status: Status = Status.http_5xx, http: int = 503) -> None:
    for name in ("first_token", "first_visible", "last_token", "max_gap"):
        rows[name][which] = -1
    for name in ("events", "token_events"):
        rows[name][which] = 0
    rows["output_tokens"][which] = -1
    rows["status"][which], rows["http_status"][which] = status, http


# -- shape --------------------------------------------------------------------------------------------------------


def test_fields_are_those_of_the_contract(tmp_path: Path) -> None:
    document = json.loads(encode(summary_of(tmp_path, request_rows(20))))
    told = {
        "requests": "scheduled sent succeeded failed cancelled never_sent lost http_status finish stale_resends",
        "load": "arrival offered_rate achieved_rate duration_s schedule_lag_ms send_lag_ms peak_in_flight arrivals",
        "latency": "ttft_ms ttft_from_due_ms ttfo_ms tpot_ms itl_ms chunk_gap_ms stall_ms e2e_ms e2e_from_due_ms "
        "queue_ms connect_ms tls_ms",
        "throughput": "requests_per_s output_tokens_per_s input_tokens_per_s events_per_s goodput_requests_per_s "
        "goodput",
        "tokens": "input output reasoning cached output_source planned_input planned_output tokens_per_event",
        "client": "workers cpu_s cpu_us_per_event drain_lag_us stamp_uncertainty_us coalesced_share peak_rss_mb stamps "
        "steal_pct",
        "verdict": "status reasons",
    }
    for section, names in told.items():
        assert set(names.split()) <= set(document[section]), section
    assert {"slo", "classes", "targets", "turns", "window"} <= set(document)
    assert document["schema"] == "llmgen.summary/1"
    dist = document["latency"]["ttft_ms"]
    assert {"n", "excluded", "mean", "min", "p50", "p90", "p95", "p99", "p999", "max", "ci95"} <= set(dist)
    assert set(dist["ci95"]) == {"p50", "p90", "p95", "p99"}
    assert document["load"]["arrivals"].keys() >= {"ks_distance", "cv", "dispersion_1s"}


def test_known_run_gives_known_numbers(tmp_path: Path) -> None:
    s = summary_of(tmp_path, request_rows(100))  # 10/s for 10 s; 5 tokens each, 10 ms apart, TTFT 50 ms
    for name, expected in {"ttft_ms": 50, "ttft_from_due_ms": 51, "tpot_ms": 10, "itl_ms": 10, "e2e_ms": 91}.items():
        dist = getattr(s.latency, name)
        assert (dist.p50, dist.p99, dist.max) == (expected, expected, expected), name
    assert s.latency.itl_ms is not None
    assert (s.latency.itl_ms.n, s.latency.ttft_ms and s.latency.ttft_ms.n) == (400, 100)
    assert s.latency.tls_ms is None
    assert (s.load.offered_rate, s.load.achieved_rate, s.load.peak_in_flight) == (10, 10, 1)
    assert s.throughput.output_tokens_per_s == pytest.approx(50)
    assert s.throughput.input_tokens_per_s == pytest.approx(70)
    assert s.throughput.events_per_s == pytest.approx(50)
    assert s.throughput.goodput is None
    assert (s.tokens.output, s.tokens.output_ratio, s.tokens.output_source) == (500, 1, {"usage": 100})
    assert s.tokens.reasoning is None
    assert s.verdict.status == "valid"
    assert s.client.stamps == "kernel"
    assert exit_code(s) == 0


def test_summary_survives_the_disk(tmp_path: Path) -> None:
    s = summary_of(tmp_path, request_rows(20), slo=["e2e_p99<1ms"])
    write_summary(tmp_path / "run", s)
    assert read_summary(tmp_path / "run") == s
    (tmp_path / "summary.json").write_bytes(encode(s).replace(b"summary/1", b"summary/9"))
    with pytest.raises(RecordError, match="newer llmgen"):
        read_summary(tmp_path / "summary.json")
    (tmp_path / "summary.json").write_bytes(encode(s)[:-50])
    with pytest.raises(RecordError, match="damaged"):
        read_summary(tmp_path / "summary.json")
    with pytest.raises(RecordError, match="No such file"):
        read_summary(tmp_path / "nothing.json")


def test_a_run_without_any_answer(tmp_path: Path) -> None:
    rows = never_sent(request_rows(5))
    s = summary_of(tmp_path, rows)
    assert s.requests.never_sent == 5
    assert s.latency.ttft_ms is None
    assert s.load.schedule_lag_ms is None
    assert exit_code(s) == 5
    assert exit_code(s, interrupted=True) == 130
    json.loads(encode(s))


def test_a_run_without_requests(tmp_path: Path) -> None:
    s = summary_of(tmp_path, request_rows(0))
    assert s.requests.scheduled == 0
    json.loads(encode(s))


# -- counts -------------------------------------------------------------------------------------------------------


def test_counts_add_up(tmp_path: Path) -> None:
    rows = request_rows(20)
    fail(rows, slice(0, 3))
    fail(rows, 3, Status.connect_refused, 0)
    rows["status"][4], rows["status"][5] = Status.cancelled, Status.lost
    rows[6:7] = never_sent(rows[6:7])
    r = summary_of(tmp_path, rows).requests
    assert (r.scheduled, r.succeeded, r.failures, r.cancelled, r.never_sent, r.lost) == (20, 13, 4, 1, 1, 1)
    assert r.failed == {"http_5xx": 3, "connect_refused": 1}
    assert r.http_status == {"200": 15, "503": 3}
    assert r.adds_up


def test_missing_rows_of_a_complete_run_break_the_identity(tmp_path: Path) -> None:
    info = run_info(22)
    s = summary_of(tmp_path, request_rows(20), schedule=info["schedule"])
    assert not s.requests.adds_up
    assert s.verdict.status == "invalid"
    assert "22 scheduled, 20 accounted for" in s.verdict.reasons[0]
    assert exit_code(s) == 4


def test_missing_rows_of_a_crashed_run_were_never_sent(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    write_segments(run_dir / "worker-0", "requests", request_rows(20))
    write_segments(run_dir / "worker-0", "events", event_rows(request_rows(20)))
    (run_dir / "run.json").write_text(json.dumps(run_info(25, state="running")))
    s = summarise(open_run(run_dir))
    assert (s.requests.scheduled, s.requests.never_sent) == (25, 5)
    assert s.requests.adds_up
    assert s.verdict.status == "incomplete"
    assert exit_code(s) == 4


# -- window and groups --------------------------------------------------------------------------------------------


def test_window_cuts_latencies_but_not_counts(tmp_path: Path) -> None:
    rows = request_rows(100)
    for name in ("first_token", "first_visible", "last_token", "end"):
        rows[name][:20] += 1000 * MS  # a slow start
    s = summary_of(tmp_path, rows, window={"start_ns": START + 2000 * MS, "end_ns": START + 9000 * MS})
    assert s.requests.scheduled == 100
    assert s.window.requests.scheduled == 70
    assert s.latency.ttft_ms is not None
    assert (s.latency.ttft_ms.n, s.latency.ttft_ms.max) == (70, 50)
    assert s.window.duration_s == 7
    # tokens count when they arrive: 70 requests' of the window, and 10 slow ones of before it
    assert s.throughput.output_tokens_per_s == pytest.approx((70 + 10) * 5 / 7, rel=0.01)


def test_everything_due_at_once(tmp_path: Path) -> None:
    rows = request_rows(30, every_ms=0)
    s = summary_of(
        tmp_path,
        rows,
        window={"start_ns": START, "end_ns": START},
        schedule={"scheduled": 30, "span_ns": 0, "arrival": "constant", "offered_rate": None},
    )
    assert s.load.offered_rate is None
    assert s.latency.ttft_ms is not None
    assert s.latency.ttft_ms.n == 30
    assert s.throughput.requests_per_s == pytest.approx(30 / 0.092)
    assert s.throughput.output_tokens_per_s == pytest.approx(150 / 0.092)
    assert s.load.peak_in_flight == 30
    assert s.load.arrivals is None
    assert s.verdict.status == "valid"


def test_rates_of_a_run_without_a_known_end(tmp_path: Path) -> None:
    rows = request_rows(30)
    endless = {"start_ns": START, "end_ns": START + (1 << 62)}
    s = summary_of(tmp_path / "a", rows, window=endless)
    assert s.throughput.requests_per_s == pytest.approx(30 / 2.992)
    assert s.window.end_s == pytest.approx(2.992)
    stopped = run_info(60, state="incomplete", reasons=["interrupted"], end_ns=START + 3000 * MS)
    s = summary_of(tmp_path / "b", rows, **{name: stopped[name] for name in ("state", "reasons", "end_ns", "window")})
    assert s.throughput.requests_per_s == pytest.approx(30 / 2.992)


def test_classes_targets_and_turns(tmp_path: Path) -> None:
    rows = request_rows(40)
    rows["klass"] = rows["target"] = np.arange(40) % 2
    rows["session"], rows["turn"] = 1, np.arange(40) // 20
    odd = rows["klass"] == 1
    for name in ("first_token", "first_visible", "last_token", "end"):
        rows[name][odd] += 10 * MS
    classes = [{"name": "a", "slo": ["ttft<55ms"], "stream": True}, {"name": "b", "slo": ["ttft<55ms"], "stream": True}]
    s = summary_of(tmp_path, rows, classes=classes, targets=[{"url": "http://x"}, {"url": "http://y"}])
    for groups, names in ((s.classes, "ab"), (s.targets, ["http://x", "http://y"])):
        assert list(groups) == list(names)
        found = [group.latency.ttft_ms and group.latency.ttft_ms.p50 for group in groups.values()]
        assert found == [50, 60]
        assert [group.latency.itl_ms and group.latency.itl_ms.n for group in groups.values()] == [80, 80]
        assert [group.requests.scheduled for group in groups.values()] == [20, 20]
    assert list(s.turns) == ["0", "1"]
    assert [group.throughput.goodput for group in s.classes.values()] == [1, 0]
    assert s.throughput.goodput == 0.5
    assert [result.met for group in s.classes.values() for result in group.slo] == [True, False]
    assert exit_code(s) == 3


# -- objectives ---------------------------------------------------------------------------------------------------


def result(path: Path, expression: str, rows: np.ndarray, *more: str, **info: Any) -> Any:
    return summary_of(path, rows, slo=[expression, *more], **info).slo[0]


def test_aggregates(tmp_path: Path) -> None:
    rows = request_rows(100)
    found = result(tmp_path, "ttft_p95<=50ms", rows)
    assert (found.measured, found.unit, found.met) == (50, "ms", True)
    assert result(tmp_path, "ttft_p95<50ms", rows).met is False
    fail(rows, slice(0, 4))
    found = result(tmp_path, "ttft_p95<=50ms", rows)
    assert (found.measured, found.met, found.missing) == (50, True, 4)
    fail(rows, slice(0, 6))
    found = result(tmp_path, "ttft_p95<=50ms", rows)
    assert (found.measured, found.met, found.missing) == (None, False, 6)
    found = result(tmp_path, "itl_p99<1s", rows)
    assert (found.measured, found.met, found.missing) == (None, False, 30)


def test_shares_and_rates(tmp_path: Path) -> None:
    rows = request_rows(100)
    fail(rows, slice(0, 2))
    assert result(tmp_path, "error_rate<=2%", rows).met is True
    assert result(tmp_path, "error_rate<2%", rows).measured == 0.02
    assert result(tmp_path, "requests_per_s>9", rows).measured == pytest.approx(9.8)
    found = result(tmp_path, "goodput>=0.99", rows, "ttft<60ms")
    assert (found.measured, found.met) == (0.98, False)
    assert result(tmp_path, "goodput>=0.9", rows).measured is None  # without a limit there is no goodput


def test_a_limit_alone_is_missed_by_one_request(tmp_path: Path) -> None:
    rows = request_rows(100)
    assert result(tmp_path, "ttft<60ms", rows).met is True
    fail(rows, 7)
    found = result(tmp_path, "ttft<60ms", rows)
    assert (found.measured, found.met) == (0.99, False)
    assert result(tmp_path, "ttft<60ms", rows, "goodput>=0.5").met is None  # goodput judges


def test_limits_on_gaps(tmp_path: Path) -> None:
    rows = request_rows(10)
    rows["max_gap"][3] = 500 * MS
    assert result(tmp_path, "chunk_gap<100ms", rows).measured == 0.9
    assert result(tmp_path, "itl<=10ms", rows).measured == 1


# -- level requests -----------------------------------------------------------------------------------------------


def test_level_requests_takes_gaps_from_histograms(tmp_path: Path) -> None:
    rows = request_rows(100)
    bounds = bucket_bounds_ns()
    hist = np.zeros(3, HISTOGRAM_DTYPE)
    bucket = np.searchsorted(bounds, 10 * MS, side="right") - 1
    hist["metric"], hist["bucket"], hist["count"] = [Histogram.gap, Histogram.itl, Histogram.gap], bucket, [400, 400, 9]
    hist["outside"][2], hist["bucket"][2] = 1, HISTOGRAM_BUCKETS - 1
    exact = summary_of(tmp_path / "a", rows, slo=["itl_p99<=11ms"])
    s = summary_of(tmp_path / "b", rows, events=False, histograms=hist, slo=["itl_p99<=11ms"])
    assert s.record == "requests"
    for name in ("itl_ms", "chunk_gap_ms"):
        dist = getattr(s.latency, name)
        assert dist.n == 400
        assert dist.p99 == pytest.approx(10, rel=0.01)
    assert s.latency.ttft_ms == exact.latency.ttft_ms
    assert s.throughput.output_tokens_per_s == pytest.approx(exact.throughput.output_tokens_per_s)
    assert s.slo[0].measured == pytest.approx(10, rel=0.01)
    assert s.slo[0].met is True


# -- verdict ------------------------------------------------------------------------------------------------------


def verdict_of(path: Path, rows: np.ndarray, **info: Any) -> tuple[str, str]:
    verdict = summary_of(path, rows, **info).verdict
    return verdict.status, " | ".join(verdict.reasons)


def late(ms: float, count: int = 1000) -> np.ndarray:
    rows = request_rows(count)
    for name in ("dispatch", "acquired", "connect_start", "connected", "send", "first_token", "last_token", "end"):
        rows[name][::20] += int(ms * MS)
    return rows


def test_lag_is_weighed_against_the_median_ttft(tmp_path: Path) -> None:
    assert verdict_of(tmp_path, late(1.5))[0] == "valid"
    status, reasons = verdict_of(tmp_path, late(5))
    assert status == "suspect"
    assert "late by 5.3 ms (schedule lag p99, limit 2.0 ms)" in reasons
    assert verdict_of(tmp_path, late(25))[0] == "invalid"
    slow = late(5)
    for name in ("first_token", "last_token", "end"):
        slow[name] += 1000 * MS  # 2 % of a second are 20 ms
    assert verdict_of(tmp_path, slow)[0] == "valid"


def test_kernel_stamps_keep_a_suspect_run_true(tmp_path: Path) -> None:
    s = summary_of(tmp_path, late(5))
    assert any("stay true" in note for note in s.verdict.notes)


def test_load_that_was_not_delivered(tmp_path: Path) -> None:
    for count, expected in ((9, "valid"), (20, "suspect"), (60, "invalid")):
        rows = request_rows(1000)
        rows[:count] = never_sent(rows[:count])
        status, reasons = verdict_of(tmp_path, rows)
        assert status == expected
        assert status == "valid" or "of the offered load was delivered" in reasons


def test_a_target_that_refuses_is_not_our_fault(tmp_path: Path) -> None:
    rows = request_rows(1000)
    fail(rows, slice(0, 300), Status.connect_refused, 0)
    rows["send"][:300] = -1
    assert verdict_of(tmp_path, rows)[0] == "valid"


def test_arrivals_are_told_beside_the_plans(tmp_path: Path) -> None:
    rows = request_rows(2000)  # every 100 ms
    rows["send"] += np.where(np.arange(2000) % 20 < 10, 900 * MS, 0)  # ten of twenty a second later: 10 and 10 at once
    arrivals = summary_of(tmp_path, rows).load.arrivals
    assert arrivals is not None
    assert (arrivals.planned_cv, arrivals.planned_dispersion_1s) == (pytest.approx(0), pytest.approx(0, abs=1e-6))
    assert arrivals.planned_dispersion_10s == pytest.approx(0, abs=1e-6)
    assert arrivals.cv is not None
    assert arrivals.cv > 0.9
    assert arrivals.dispersion_1s is not None
    assert arrivals.dispersion_1s > 0.5
    assert arrivals.dispersion_10s == pytest.approx(0, abs=0.1)
    told = arrivals_text(arrivals)
    assert f"CV of gaps {arrivals.cv:.2f} (plan 0.00)" in told
    assert f"dispersion at 1 s {arrivals.dispersion_1s:.2f} (plan 0.00), at 10 s" in told


def test_arrivals_that_left_in_bursts(tmp_path: Path) -> None:
    rows = request_rows(1000)
    shift = (np.arange(1000) % 4) * 95 * MS  # four leave together, all within lag that a huge TTFT forgives
    rows["send"] += 300 * MS - shift
    for name in ("first_token", "last_token", "end"):
        rows[name] += 100_000 * MS
    status, reasons = verdict_of(tmp_path, rows)
    assert status == "suspect"
    assert "KS distance" in reasons


@pytest.mark.parametrize(("rate", "judged"), [(4000, True), (6000, False)])
def test_gaps_as_short_as_a_timer_is_late_are_not_judged(rate: int, judged: bool, tmp_path: Path) -> None:
    rows = request_rows(2000, every_ms=1000 / rate)
    rows["send"] += np.where(np.arange(2000) % 4 < 2, 300_000, 0)  # two and two together, 0.3 ms late
    schedule = {"scheduled": 2000, "span_ns": 2000 * 10**9 // rate, "arrival": "constant", "offered_rate": rate}
    _, reasons = verdict_of(tmp_path, rows, schedule=schedule)
    assert ("KS distance" in reasons) == judged


@pytest.mark.parametrize(
    ("info", "expected", "words"),
    [
        ({"clock": {"steps": 2, "steal_pct": 0.0}}, "suspect", "clock was stepped 2 times"),
        ({"clock": {"steps": 0, "steal_pct": 7.5}}, "suspect", "7.5 %"),
        ({"workers_detail": [{"worker": 0, "cpu_s": 99.0}]}, "suspect", "98% of its core"),
        (
            {"workers_detail": [{"worker": 0, "cpu_s": 1.0, "flow_blocked": 3_000_000}]},
            "invalid",
            "flow-control windows kept the server waiting for 3 ms",
        ),
        ({"state": "incomplete", "reasons": ["interrupted"]}, "incomplete", "interrupted"),
        ({"state": "running"}, "incomplete", "controller did not live"),
    ],
)
def test_other_reasons(tmp_path: Path, info: dict[str, Any], expected: str, words: str) -> None:
    status, reasons = verdict_of(tmp_path, request_rows(1000), **info)
    assert status == expected
    assert words in reasons


def test_busy_workers_are_told_how_many_would_do(tmp_path: Path) -> None:
    _, reasons = verdict_of(tmp_path, late(25), workers=2, workers_detail=[{"worker": 0, "cpu_s": 99.0}])
    assert "about 4 workers would have been enough" in reasons


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"affinity": list(range(8)), "quota_cores": None}, "about 4 workers would have been enough (--workers 4)"),
        ({"affinity": [0, 1, 2], "quota_cores": None}, "about 4 workers would have been enough: 2 machines like this"),
        ({"affinity": list(range(8)), "quota_cores": 2.5}, "enough: 4 machines like this one, with 1 workers each"),
    ],
)
def test_busy_workers_are_told_of_machines(tmp_path: Path, environment: dict[str, Any], words: str) -> None:
    full = [{"worker": 0, "cpu_s": 99.0}]
    assert words in verdict_of(tmp_path, late(25), workers=2, workers_detail=full, environment=environment)[1]


def test_what_was_not_delivered_counts_among_the_workers_that_are_wanted(tmp_path: Path) -> None:
    rows = request_rows(1000)
    rows[500:] = never_sent(rows[500:])
    status, reasons = verdict_of(tmp_path, rows, workers=2, workers_detail=[{"worker": 0, "cpu_s": 99.0}])
    assert status == "invalid"
    assert "about 7 workers would have been enough" in reasons  # twice as many as for what was sent


def test_our_own_limits_make_a_run_invalid(tmp_path: Path) -> None:
    rows = request_rows(1000)
    fail(rows, slice(0, 2), Status.client_limit, 0)
    status, reasons = verdict_of(tmp_path, rows)
    assert status == "invalid"
    assert "2 requests of 1000" in reasons


def test_user_stamps_and_drain_lag(tmp_path: Path) -> None:
    rows = request_rows(1000)
    hist = np.zeros(1, HISTOGRAM_DTYPE)
    hist["metric"], hist["count"] = Histogram.drain_lag, 5000
    hist["bucket"] = np.searchsorted(bucket_bounds_ns(), 5 * MS, side="right") - 1
    assert verdict_of(tmp_path, rows, histograms=hist)[0] == "valid"
    rows["flags"] |= 2
    status, reasons = verdict_of(tmp_path, rows, histograms=hist)
    assert status == "suspect"
    assert "user-space stamp" in reasons


def test_tokens_read_after_the_next_one_came_have_no_true_times(tmp_path: Path) -> None:
    rows = late(5)  # of gaps of 10 ms
    hist = np.zeros(1, HISTOGRAM_DTYPE)
    hist["metric"], hist["count"] = Histogram.drain_lag, 5000
    for drain_ms, shared, true in ((4, 1, True), (7, 1, False), (7, 0, True)):
        hist["bucket"] = np.searchsorted(bucket_bounds_ns(), drain_ms * MS, side="right") - 1
        rows["coalesced_events"] = shared
        run = write_run(tmp_path / f"run-{drain_ms}-{shared}", rows, event_rows(rows), run_info(1000), histograms=hist)
        verdict = summarise(open_run(run)).verdict
        assert verdict.status == "suspect"
        assert any("stay true" in note for note in verdict.notes) == true
        assert any("shared a read" in reason for reason in verdict.reasons) != true


def test_kernel_stamps_do_not_keep_streams_true_that_share_a_connection(tmp_path: Path) -> None:
    rows = late(5)
    for protocol, streams, true in ((1, None, True), (2, None, False), (2, 8, False), (2, 1, True)):
        config = {"record": "events", "slo": [], "client": {"streams_per_connection": streams}}
        info = run_info(1000, server=[{"url": "http://h", "protocol": protocol}], config=config)
        run = write_run(tmp_path / f"run-{protocol}-{streams}", rows, event_rows(rows), info)
        notes = summarise(open_run(run)).verdict.notes
        assert any("stay true" in note for note in notes) == true
        assert any("over HTTP/2" in note for note in notes) != true


def test_thresholds_can_be_moved(tmp_path: Path) -> None:
    rows = late(5)
    run = write_run(tmp_path / "run", rows, event_rows(rows), run_info(1000))
    relaxed = msgspec.structs.replace(Thresholds(), suspect_lag_ms=10.0)
    assert summarise(open_run(run), relaxed).verdict.status == "valid"


def test_a_run_is_judged_by_the_thresholds_it_was_configured_with(tmp_path: Path) -> None:
    rows = late(5)
    status, reasons = verdict_of(tmp_path, rows, config={"verdict": {"suspect_lag_ms": 3.0, "of_a_later_version": 1}})
    assert status == "suspect"
    assert "limit 3.0 ms" in reasons
    assert verdict_of(tmp_path, rows, config={"verdict": {"suspect_lag_ms": 10.0}})[0] == "valid"


def test_lag_on_an_idle_core_names_the_timer_loop_of_the_last_selfbench(tmp_path: Path) -> None:
    idle = {"workers_detail": [{"worker": 0, "cpu_s": 0.1}]}
    loop = {"timer_loop": {"p50_us": 77.0, "p99_us": 3600.0}}
    assert "timer loop" not in verdict_of(tmp_path, late(5), **idle)[1]
    reasons = verdict_of(tmp_path, late(5), environment=loop, **idle)[1]
    assert "a plain C timer loop was late by 3.6 ms here" in reasons


def test_cut_events_are_said_and_do_not_stop_the_summary(tmp_path: Path) -> None:
    rows = request_rows(20)
    run = write_run(tmp_path / "run", rows, event_rows(rows), run_info(20))
    for name in ("events.npy", "requests.npy"):
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[:-300])
    s = summarise(open_run(run))
    assert any("events.npy is cut short" in note for note in s.verdict.notes)
    assert s.verdict.status == "invalid"  # a request is missing


def test_all_at_once_promises_no_times(tmp_path: Path) -> None:
    rows = request_rows(1000)
    rows["dispatch"] += 40_000_000
    rows["send"] += 40_000_000
    schedule = {"scheduled": 1000, "span_ns": None, "arrival": "all at once"}
    assert verdict_of(tmp_path, rows)[0] == "invalid"
    assert verdict_of(tmp_path, rows, schedule=schedule)[0] == "valid"
