"""Cuts of a run by time, tokens, timeouts and patience; sessions and cost: against runs computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabricate import MS, event_rows, never_sent, request_rows, run_info, write_run
from llmgen.columns import Status
from llmgen.metrics import breakdown
from llmgen.metrics.figures import Summary
from llmgen.metrics.summary import summarise
from llmgen.records import open_run


def summary_of(path: Path, rows: np.ndarray, *, events: bool = True, config: Any = None, **info: Any) -> Summary:
    told = run_info(len(rows), **info)
    told["config"] = {"record": "events" if events else "requests", "slo": [], **(config or {})}
    return summarise(open_run(write_run(path / "run", rows, event_rows(rows) if events else None, told)))


def shift(rows: np.ndarray, which: Any, ms: float) -> None:
    for name in ("first_token", "first_visible", "first_event", "last_token", "end"):
        rows[name][which] += int(ms * MS)


def fail(rows: np.ndarray, which: Any, status: Status) -> None:
    for name in ("first_token", "first_visible", "last_token", "max_gap"):
        rows[name][which] = -1
    rows["token_events"][which] = rows["events"][which] = 0
    rows["output_tokens"][which] = -1
    rows["status"][which] = status


# -- windows ----------------------------------------------------------------------------------------------------------


def test_windows_hold_what_was_due_in_them(tmp_path: Path) -> None:
    rows = request_rows(200)  # 10/s for 20 s, 5 tokens each
    shift(rows, slice(100, None), 100)
    rows["status"][150:160] = Status.http_5xx
    w = summary_of(tmp_path, rows).windows
    assert w is not None
    assert len(w.scheduled) <= 60
    assert sum(w.scheduled) == 200
    assert (sum(w.succeeded), sum(w.failed)) == (190, 10)
    per_window = round(10 * w.width_s)
    assert w.scheduled[0] == per_window
    assert (w.ttft_from_due_p50_ms[0], w.ttft_from_due_p99_ms[0]) == (51, 51)
    last = [value for value in w.ttft_from_due_p50_ms if value is not None][-1]
    assert last == 151
    assert w.itl_p50_ms[0] == 10
    assert sum(w.output_tokens_per_s) * w.width_s == pytest.approx(1000)
    assert all(w.measured[: round(20 / w.width_s)])


def test_windows_of_gaps_are_those_of_the_requests_due(tmp_path: Path) -> None:
    """Also where the due times do not rise with the rows, as in a closed loop: both ways give the same."""
    rng = np.random.default_rng(1)
    rows = request_rows(300, tokens=6)
    gaps = rng.integers(5, 50, 300)
    rows["last_token"] = rows["first_token"] + 5 * gaps * MS
    rows["end"] = rows["last_token"] + MS
    parts = [event_rows(rows[i : i + 1], gap_ms=float(gaps[i])) for i in range(300)]
    for number, part in enumerate(parts):
        part["request"] = number
    events = np.concatenate(parts)
    ordered = summarise(open_run(write_run(tmp_path / "a", rows, events, run_info(300)))).windows
    order = rng.permutation(300)
    place = np.argsort(order).astype(np.uint32)
    mixed = events.copy()
    mixed["request"] = place[events["request"]]
    shuffled = summarise(open_run(write_run(tmp_path / "b", rows[order], mixed, run_info(300)))).windows
    assert ordered is not None
    assert shuffled is not None
    assert ordered.itl_p95_ms == shuffled.itl_p95_ms
    width = int(ordered.width_s * 10)
    first = np.repeat(gaps[:width], 5).astype(float)
    assert ordered.itl_p95_ms[0] == pytest.approx(np.quantile(first, 0.95))


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_latency_against_tokens(tmp_path: Path) -> None:
    rows = request_rows(300)
    rows["input_tokens"] = np.repeat([10, 100, 1000], 100)
    shift(rows, slice(100, 200), 40)
    shift(rows, slice(200, 300), 400)
    found = summary_of(tmp_path, rows).by_tokens
    assert [(b.low, b.high, b.n, b.p50) for b in found.ttft_by_input] == [
        (8, 16, 100, 50),
        (64, 128, 100, 90),
        (512, 1024, 100, 450),
    ]
    assert [(b.low, b.n) for b in found.tpot_by_context] == [(8, 100), (64, 100), (512, 100)]
    assert all(b.p95 == 10 for b in found.tpot_by_context)
    assert [(b.low, b.high, b.n) for b in found.e2e_by_output] == [(5, 6, 300)]


def test_narrow_token_counts_are_cut_at_their_quantiles() -> None:
    tokens = np.arange(100, 200)
    edges = breakdown.token_edges(tokens)
    assert (edges[0], edges[-1], len(edges)) == (100, 200, 9)
    assert np.histogram(tokens, edges)[0] == pytest.approx(100 / 8, abs=1)
    assert breakdown.token_edges(np.array([7, 7])).tolist() == [7, 8]
    assert breakdown.token_edges(np.array([1, 8])).tolist() == [1, 2, 4, 8, 16]


def test_untold_input_tokens_are_those_planned(tmp_path: Path) -> None:
    rows = request_rows(20)
    rows["input_tokens"] = -1
    rows["planned_input"] = 33
    (found,) = summary_of(tmp_path, rows).by_tokens.ttft_by_input
    assert (found.low, found.n) == (33, 20)


# -- patience ---------------------------------------------------------------------------------------------------------


def test_timeouts_by_whose_they_were(tmp_path: Path) -> None:
    rows = request_rows(40)
    for status, which in (
        (Status.connect_timeout, slice(0, 1)),
        (Status.first_token_timeout, slice(1, 4)),
        (Status.idle_timeout, slice(4, 6)),
        (Status.total_timeout, slice(6, 7)),
        (Status.abandoned, slice(7, 9)),
        (Status.server_timeout, slice(9, 12)),
        (Status.http_5xx, slice(12, 14)),
        (Status.stream_cut, slice(14, 15)),
    ):
        fail(rows, which, status)
    rows["end"][1:4] = rows["due"][1:4] + 2000 * MS
    rows["end"][9:12] = rows["due"][9:12] + 500 * MS
    found = summary_of(tmp_path, rows).timeouts
    assert found is not None
    assert found.client == {"connect": 1, "first_token": 3, "idle": 2, "total": 1, "abandoned": 2}
    assert found.server_timeout == 3
    assert found.server_failures == {"http_5xx": 2, "stream_cut": 1}
    assert found.client_after_ms is not None
    assert found.client_after_ms.max == 2000
    assert found.server_timeout_after_ms is not None
    assert found.server_timeout_after_ms.p50 == 500


def test_abandonment_at_one_three_and_ten_seconds(tmp_path: Path) -> None:
    rows = request_rows(100)
    shift(rows, slice(0, 10), 2000)
    shift(rows, slice(10, 15), 5000)
    fail(rows, slice(15, 17), Status.first_token_timeout)
    rows["end"][15:17] = rows["due"][15:17] + 20_000 * MS
    fail(rows, slice(17, 20), Status.http_5xx)  # ended at once: nobody knows how long they would have taken
    found = summary_of(tmp_path, rows).abandonment
    assert [(a.threshold_s, a.n, a.passed) for a in found] == [(1, 97, 17), (3, 97, 7), (10, 97, 2)]
    assert found[0].share == 17 / 97


def test_whole_answers_are_not_abandoned(tmp_path: Path) -> None:
    rows = request_rows(10)
    rows["flags"] = 64
    shift(rows, slice(None), 5000)
    assert summary_of(tmp_path, rows).abandonment == ()


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_sessions(tmp_path: Path) -> None:
    rows = request_rows(12)
    rows["session"] = np.repeat([0, 1, 2, -1], 3)
    rows["turn"] = np.tile([0, 1, 2], 4)
    shift(rows, 4, 1000)  # session 1: a slow turn
    fail(rows, 8, Status.http_5xx)
    s = summary_of(tmp_path, rows, config={"slo": ["ttft<500ms"]})
    found = s.sessions
    assert found is not None
    assert (found.sessions, found.succeeded) == (3, 2)
    assert found.goodput == pytest.approx(1 / 3)
    assert found.duration_ms is not None
    assert (found.duration_ms.n, found.duration_ms.excluded) == (2, 1)
    assert found.duration_ms.min == 200 + 92  # third due 200 ms after the first, ended 92 ms later
    assert found.duration_ms.max == 100 + 1092
    assert set(s.turns) == {"0", "1", "2"}
    assert s.turns["1"].requests.scheduled == 3


def test_a_turn_that_was_never_due_leaves_its_session_in_the_window(tmp_path: Path) -> None:
    rows = request_rows(6)
    rows["session"], rows["turn"] = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    fail(rows, 1, Status.http_5xx)
    fail(rows, 2, Status.never_sent)
    rows["due"][2] = -1
    found = summary_of(tmp_path, rows, config={"slo": ["ttft<500ms"]}).sessions
    assert found is not None
    assert (found.sessions, found.succeeded) == (2, 1)
    assert found.goodput == pytest.approx(1 / 2)


def test_late_turns_are_one_group(tmp_path: Path) -> None:
    rows = request_rows(60)
    rows["session"], rows["turn"] = 0, np.arange(60) // 2
    turns = summary_of(tmp_path, rows).turns
    assert len(turns) == 21
    assert turns["20+"].requests.scheduled == 20


def test_no_sessions_no_figures(tmp_path: Path) -> None:
    s = summary_of(tmp_path, request_rows(5))
    assert s.sessions is None
    assert s.cost is None


# -- cost -------------------------------------------------------------------------------------------------------------


def test_gpu_hours(tmp_path: Path) -> None:
    rows = request_rows(100)  # 10 requests/s, 50 tokens/s
    shift(rows, slice(0, 50), 1000)
    cost = summary_of(tmp_path, rows, config={"prices": {"gpu_hour": 2.5, "gpus": 8}, "slo": ["ttft<1s"]}).cost
    assert cost is not None
    assert cost.per_million_output_tokens == pytest.approx(8 * 2.5 / (3600 * 50) * 1e6, rel=0.01)
    assert cost.per_thousand_good_requests == pytest.approx(8 * 2.5 / (3.6 * 5))
    assert cost.per_million_good_output_tokens == pytest.approx(8 * 2.5 / (3600 * 25) * 1e6, rel=0.01)
    assert cost.tokens_total is None


def test_hosted_prices(tmp_path: Path) -> None:
    rows = request_rows(100)
    rows["input_tokens"], rows["cached_tokens"] = 1000, 400
    prices = {"input_per_million": 3.0, "cached_per_million": 0.5, "output_per_million": 15.0}
    cost = summary_of(tmp_path / "a", rows, config={"prices": prices}).cost
    assert cost is not None
    assert cost.tokens_total == pytest.approx(100 * (600 * 3 + 400 * 0.5 + 5 * 15) / 1e6)
    assert cost.tokens_per_thousand_requests == pytest.approx(cost.tokens_total * 10)
    assert cost.per_thousand_requests is None
    rows["cached_tokens"] = -1
    cost = summary_of(tmp_path / "b", rows, config={"prices": prices}).cost
    assert cost is not None
    assert cost.tokens_total == pytest.approx(100 * (1000 * 3 + 5 * 15) / 1e6)


def test_nothing_divides_by_nothing(tmp_path: Path) -> None:
    s = summary_of(tmp_path, never_sent(request_rows(3)), config={"prices": {"gpu_hour": 1.0}})
    assert s.cost is not None
    assert s.cost.per_million_output_tokens is None
    assert s.abandonment == ()
