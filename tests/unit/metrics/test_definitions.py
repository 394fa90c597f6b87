"""The metric dictionary against small traces computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fabricate import MS, START, request_rows
from llmgen.columns import Flag, Kind, OutputSource, Status
from llmgen.metrics import definitions as d


def gaps_of(*events: tuple[int, float, int], requests: int = 3) -> list[tuple[int, float, int]]:
    """(request, ms, tokens) in; (request, gap ms, tokens) out."""
    t = np.array([START + int(ms * MS) for _, ms, _ in events], np.int64)
    request = np.array([r for r, _, _ in events], np.uint32)
    tokens = np.array([k for _, _, k in events], np.uint16)
    gaps = d.chunk_gaps(t, request, tokens, np.full(requests, START, np.int64))
    return list(zip(gaps.request.tolist(), (gaps.ns / MS).tolist(), gaps.tokens.tolist(), strict=True))


# -- stamps -------------------------------------------------------------------------------------------------------


def test_every_metric_of_a_request_by_hand() -> None:
    r = request_rows(1)  # due 0, dispatch 0.2, connected 0.9, send 1, first 51, last 91, end 92 ms, 5 tokens
    told = {
        "ttft": 50, "ttft_from_due": 51, "ttfo": 50, "tpot": 10, "stall": 10, "e2e": 91, "e2e_from_due": 92,
        "normalised": 91 / 5, "queue": 0, "connect": 0.7,
    }  # fmt: skip
    for name, expected in told.items():
        assert d.REQUEST_METRICS[name](r)[0] / MS == pytest.approx(expected), name
    assert np.isnan(d.tls(r)[0])  # plain HTTP
    assert d.schedule_lag(r)[0] / MS == pytest.approx(0.2)
    assert d.hand_over_lag(r)[0] / MS == pytest.approx(0.1)  # connected 0.9, send 1
    assert d.send_lag(r)[0] / MS == pytest.approx(1)
    assert set(told) | {"tls"} == set(d.REQUEST_METRICS)


def test_tls_is_the_time_from_connected_to_secured() -> None:
    r = request_rows(1)
    r["secured"] = r["connected"] + 3 * MS
    assert d.tls(r)[0] == 3 * MS


@pytest.mark.parametrize("metric", ["ttft", "ttft_from_due", "ttfo", "tpot", "stall", "e2e", "normalised"])
def test_a_request_that_never_answered_has_no_value(metric: str) -> None:
    r = request_rows(1)
    for name in ("first_token", "first_visible", "last_token", "max_gap", "end"):
        r[name] = -1
    r["status"] = Status.first_token_timeout
    assert np.isnan(d.REQUEST_METRICS[metric](r)[0])


def test_a_failed_request_has_a_ttft_but_no_e2e() -> None:
    r = request_rows(1)
    r["status"] = Status.stream_cut
    assert d.ttft(r)[0] == 50 * MS
    for metric in (d.e2e, d.e2e_from_due, d.tpot, d.normalised):
        assert np.isnan(metric(r)[0])


def test_a_whole_answer_has_no_stream_metrics() -> None:
    r = request_rows(1)
    r["flags"] = Flag.whole_answer
    for metric in (d.ttft, d.ttft_from_due, d.ttfo, d.tpot):
        assert np.isnan(metric(r)[0])
    assert d.e2e(r)[0] == 91 * MS


def test_tpot_divides_by_the_tokens_after_the_first_event() -> None:
    r = request_rows(1)
    r["output_tokens"], r["first_event_tokens"] = 12, 4  # 40 ms for 8 tokens
    assert d.tpot(r)[0] == 5 * MS
    r["first_event_tokens"] = -1  # unknown: 1
    assert d.tpot(r)[0] == pytest.approx(40 * MS / 11)


@pytest.mark.parametrize(("n_out", "n_first"), [(1, 1), (0, 1), (-1, 1), (4, 4), (3, 4)])
def test_tpot_needs_tokens_after_the_first_event(n_out: int, n_first: int) -> None:
    r = request_rows(1)
    r["output_tokens"], r["first_event_tokens"] = n_out, n_first
    assert np.isnan(d.tpot(r)[0])


def test_tpot_leaves_out_reasoning_that_was_not_streamed() -> None:
    r = request_rows(2)
    r["output_tokens"], r["reasoning_tokens"] = 105, 100
    r["first_visible"][1] = r["first_token"][1] + 10 * MS  # request 1 streamed its reasoning first
    assert d.tpot(r)[0] == 10 * MS
    assert d.tpot(r)[1] == pytest.approx(40 * MS / 104)
    r["output_source"] = OutputSource.events  # counted from the stream: nothing hidden is in it
    assert d.tpot(r)[0] == pytest.approx(40 * MS / 104)


# -- gaps ---------------------------------------------------------------------------------------------------------


def test_one_event_a_read() -> None:
    assert gaps_of((0, 10, 1), (0, 30, 1), (0, 60, 1)) == [(0, 20, 1), (0, 30, 1)]


def test_three_events_in_one_write_get_no_invented_spacing() -> None:
    # reads at 10 (1 event), 40 (3 events), 60 (1 event): two gaps, of 30 ms with 3 tokens and 20 ms with 1
    gaps = gaps_of((0, 10, 1), (0, 40, 1), (0, 40, 1), (0, 40, 1), (0, 60, 1))
    assert gaps == [(0, 30, 3), (0, 20, 1)]


def test_three_events_in_the_first_read_start_the_first_gap() -> None:
    assert gaps_of((0, 10, 1), (0, 10, 1), (0, 10, 1), (0, 25, 1)) == [(0, 15, 1)]


def test_gaps_never_cross_requests() -> None:
    gaps = gaps_of((1, 10, 1), (0, 11, 1), (1, 12, 1), (0, 15, 1), (2, 16, 1))
    assert gaps == [(0, 4, 1), (1, 2, 1)]


def test_equal_stamps_of_different_requests_are_different_reads() -> None:
    assert gaps_of((0, 10, 1), (1, 10, 1), (0, 20, 2), (1, 20, 3)) == [(0, 10, 2), (1, 10, 3)]


def test_tokens_of_an_event_are_added_over_the_later_read() -> None:
    assert gaps_of((0, 10, 5), (0, 20, 2), (0, 20, 3)) == [(0, 10, 5)]


def test_no_gaps() -> None:
    assert gaps_of() == []
    assert gaps_of((0, 10, 1), (1, 10, 1)) == []
    assert gaps_of((0, 10, 2), (0, 10, 1)) == []


def test_sorting_by_keys_and_by_lexsort_agree() -> None:
    rng = np.random.default_rng(3)
    n = 5000
    request = rng.integers(0, 40, n).astype(np.uint32)
    t = START + rng.integers(0, 2000, n) * MS
    tokens = rng.integers(0, 9, n).astype(np.uint16)
    quick = d.chunk_gaps(t, request, tokens, np.full(40, START, np.int64))
    # a start after some events: differences become negative, which the keys cannot hold
    plain = d.chunk_gaps(t, request, tokens, np.full(40, START + 1000 * MS, np.int64))
    for a, b in zip((quick.ns, quick.tokens, quick.request), (plain.ns, plain.tokens, plain.request), strict=True):
        assert np.array_equal(a, b)
    # and both with the definition, read by read
    expected = []
    for row in range(40):
        reads = sorted({int(x) for x in t[request == row]})
        for before, after in itertools.pairwise(reads):
            expected.append((row, after - before, int(tokens[(request == row) & (t == after)].sum())))
    assert list(zip(quick.request.tolist(), quick.ns.tolist(), quick.tokens.tolist(), strict=True)) == expected


def test_a_run_of_days_with_many_requests_needs_more_than_64_bits() -> None:
    start = np.zeros(1 << 24, np.int64)
    t = np.array([1 << 50, (1 << 50) + 5], np.int64)
    request = np.array([(1 << 24) - 1] * 2, np.uint32)
    gaps = d.chunk_gaps(t, request, np.array([300, 1], np.uint16), start)
    assert (gaps.ns.tolist(), gaps.tokens.tolist()) == ([5], [1])


def test_itl_is_weighted_by_tokens() -> None:
    gaps = d.Gaps(
        np.array([30, 20, 7]) * MS, np.array([3, 1, 0]), np.array([0, 0, 1], np.uint32), False, np.array([2, 1, 0])
    )
    values, weights, rows = d.itl(gaps)
    assert weights is not None
    assert np.repeat(values, weights).tolist() == [10 * MS, 10 * MS, 10 * MS, 20 * MS]
    assert rows.tolist() == [0, 0]
    mean = d.mean_itl(gaps, 3)
    assert mean[0] == 50 * MS / 4
    assert np.isnan(mean[1])
    assert np.isnan(mean[2])


def test_token_events() -> None:
    kinds = [
        Kind.text,
        Kind.reasoning,
        Kind.tool,
        Kind.text | Kind.finish,
        Kind.role,
        Kind.finish,
        Kind.usage,
        Kind.error,
        0,
    ]
    assert d.is_token_event(np.array(kinds, np.uint8)).tolist() == [True] * 4 + [False] * 5


# -- throughput ---------------------------------------------------------------------------------------------------


def test_weights_of_events_are_scaled_to_usage() -> None:
    r = request_rows(1)
    r["output_tokens"] = 20  # 5 events: 4 tokens each
    window = (START, START + 75 * MS)  # events at 51, 61, 71 of 51 .. 91
    inside = d.tokens_inside(r, window, (np.array([5.0]), np.array([3.0])))
    assert inside.tolist() == [12.0]


def test_unstreamed_tokens_count_at_the_end() -> None:
    r = request_rows(2)
    r["flags"] = Flag.whole_answer
    nothing = (np.zeros(2), np.zeros(2))
    window = (START, START + 150 * MS)  # ends at 92 and 192
    assert d.tokens_inside(r, window, nothing).tolist() == [5.0, 0.0]
    assert d.tokens_inside(r, window, None).tolist() == [5.0, 0.0]


def test_without_events_tokens_are_spread_evenly() -> None:
    r = request_rows(1)  # 51 .. 91
    assert d.tokens_inside(r, (START, START + 71 * MS), None)[0] == pytest.approx(2.5)
    assert d.tokens_inside(r, (START, START + 500 * MS), None)[0] == 5
    assert d.tokens_inside(r, (START + 100 * MS, START + 500 * MS), None)[0] == 0
    r["last_token"] = r["first_token"]  # one event
    assert d.tokens_inside(r, (START + 51 * MS, START + 52 * MS), None)[0] == 5


def test_tokens_nobody_told_are_those_that_came() -> None:
    r = request_rows(1)
    r["output_tokens"] = -1
    assert d.tokens_inside(r, (START, START + 500 * MS), (np.array([5.0]), np.array([4.0])))[0] == 4


def test_peak_in_flight() -> None:
    r = request_rows(4, every_ms=10)  # sent at 1, 11, 21, 31; each lasts 91 ms
    assert d.peak_in_flight(r) == 4
    r["end"][:2] = START + 21 * MS  # ended when the third was sent: not at once
    assert d.peak_in_flight(r) == 2
    r["end"][0] = -1  # lost: to the end
    assert d.peak_in_flight(r) == 3
    assert d.peak_in_flight(r[:0]) == 0


def test_columns_are_contiguous_copies_taken_once() -> None:
    columns = d.Requests(request_rows(3))
    assert columns["send"].flags.c_contiguous
    assert columns["send"] is columns["send"]
    assert math.isclose(d.ttft(columns)[0], 50 * MS)
