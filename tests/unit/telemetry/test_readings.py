"""What telemetry says over time: resets, restarts, what is absent, several sources, histograms between edges."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.telemetry.readings import Readings, combine, restarts, unwrapped
from llmgen.telemetry.store import Source

S = 1_000_000_000
NAN = float("nan")
NONE = np.empty(0, np.int64)


def source(every_s: float = 1.0, family: str = "vllm", at: list[float] | None = None, **columns: list[float]) -> Source:
    """Readings a second apart from 1 s on, or `at` those seconds."""
    count = len(next(iter(columns.values())))
    seconds = list(range(1, count + 1)) if at is None else at
    found = Source(f"http://{family}/metrics", every_s, family, list(columns))
    found.t = (np.array(seconds) * S).astype(np.int64)
    found.took = np.full(count, 1000, np.int64)
    found.values = np.array(list(columns.values()), np.float64).T
    return found


def track(values: list[float], restarted: list[int] | None = None) -> tuple[list[float], list[float]]:
    t = np.arange(len(values), dtype=np.int64) * S
    found = unwrapped(t, np.array(values, np.float64), NONE if restarted is None else np.array(restarted))
    return (found.t / S).tolist(), found.v.tolist()


def test_a_counter_begins_at_its_first_reading() -> None:
    assert track([100, 103, 103, 110]) == ([0, 1, 2, 3], [0, 3, 3, 10])


def test_after_a_reset_the_value_is_what_was_added() -> None:
    assert track([100, 103, 2, 5])[1] == [0, 3, 5, 8]


def test_a_restart_is_a_reset_even_if_the_value_has_grown_past() -> None:
    assert track([10, 12, 15, 16], [2])[1] == [0, 2, 17, 18]


def test_a_reading_that_lacks_the_counter_is_not_zero() -> None:
    assert track([5, NAN, 9]) == ([0, 2], [0, 4])


def test_a_counter_that_appears_later_begins_at_zero_there() -> None:
    assert track([NAN, NAN, 4, 6]) == ([1, 2, 3], [0, 4, 6])


def test_a_counter_that_never_was_there_is_unknown() -> None:
    assert track([NAN, NAN]) == ([], [])
    readings = Readings([source(running=[1.0, 2.0])])
    assert readings.counter("output_tokens") is None
    assert readings.increase("output_tokens", S, 2 * S) is None
    assert readings.gauge("waiting") is None


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1, max_size=5))
def test_whatever_restarts_the_increase_is_what_was_counted(lives: list[list[int]]) -> None:
    """Each life counts from 0 by the given steps; only what came before the first reading is unknown."""
    values = [float(total) for life in lives for total in itertools.accumulate(life)]
    starts = np.cumsum([0] + [len(life) for life in lives])[1:-1]
    found = unwrapped(np.arange(len(values)) * S, np.array(values), np.array(starts, np.int64))
    assert found.v[-1] == sum(map(sum, lives)) - lives[0][0]
    assert (np.diff(found.v) >= 0).all()


def test_an_increase_between_readings_is_even() -> None:
    readings = Readings([source(output_tokens=[0.0, 100.0, 300.0])])
    assert readings.increase("output_tokens", 1 * S, 3 * S) == 300
    assert readings.increase("output_tokens", round(1.5 * S), round(2.5 * S)) == pytest.approx(150)


def test_counters_of_several_servers_are_added() -> None:
    one = source(output_tokens=[0.0, 10.0, 20.0])
    two = source(at=[1.5, 2.5, 3.5], output_tokens=[500.0, 510.0, 520.0])
    assert Readings([one, two]).increase("output_tokens", 0, 4 * S) == 40


def test_a_mean_is_of_what_came_in_between() -> None:
    readings = Readings([source(**{"ttft.sum": [10.0, 11.0, 14.0], "ttft.count": [100.0, 110.0, 120.0]})])
    assert readings.mean("ttft", 1 * S, 3 * S) == (20, pytest.approx(0.2))
    assert readings.mean("ttft", 2 * S, 2 * S) is None
    assert Readings([source(**{"ttft.sum": [1.0, 2.0]})]).mean("ttft", S, 2 * S) is None


# -- gauges -------------------------------------------------------------------------------------------------------


def test_gauges_are_combined_as_they_mean() -> None:
    both = Readings([source(running=[1.0, 2.0], kv_usage=[0.2, 0.9]), source(running=[5.0, 5.0], kv_usage=[0.5, 0.5])])
    running, kv_usage = both.gauge("running"), both.gauge("kv_usage")
    assert running is not None
    assert kv_usage is not None
    assert running.v.tolist() == [6, 7]
    assert kv_usage.v.tolist() == [0.5, 0.9]


def test_a_server_that_says_nothing_any_more_has_no_running_requests_but_unknown_ones() -> None:
    alive = source(running=[1.0] * 12)
    gone = source(running=[5.0, 5.0])
    found = Readings([alive, gone]).gauge("running")
    assert found is not None
    assert found.v[1] == 6
    assert found.v[5] == 6  # a reading may be late
    assert found.v[-1] == 1
    assert np.isnan(Readings([gone, source(at=[20.0, 21.0], waiting=[0.0, 0.0])]).gauge("running").v[2:]).all()  # type: ignore[union-attr]


def test_gpus_are_told_apart_and_together() -> None:
    readings = Readings([source(family="dcgm", **{"gpu_util[0]": [0.9, 0.7], "gpu_util[1]": [0.1, 0.3]})])
    assert readings.gpus == ((0, "0"), (0, "1"))
    together, alone = readings.gauge("gpu_util"), readings.gauge("gpu_util", (0, "1"))
    assert together is not None
    assert alone is not None
    assert together.v.tolist() == pytest.approx([0.5, 0.5])
    assert alone.v.tolist() == [0.1, 0.3]
    assert readings.gauge("gpu_util", (1, "1")) is None


@pytest.mark.parametrize("over", ["sum", "mean", "max", "min"])
def test_combining_leaves_out_what_is_absent(over: str) -> None:
    rng = random.Random(over)
    columns = np.array([[rng.choice([NAN, rng.uniform(-5, 5)]) for _ in range(50)] for _ in range(3)])
    plain = {"sum": sum, "mean": lambda v: sum(v) / len(v), "max": max, "min": min}[over]
    found = combine(columns, over)  # type: ignore[arg-type]
    for at in range(50):
        values = [v for v in columns[:, at].tolist() if v == v]
        if values:
            assert found[at] == pytest.approx(plain(values))
        else:
            assert np.isnan(found[at])


# -- what happened ------------------------------------------------------------------------------------------------


def test_a_restart_is_known_by_the_start_of_the_process() -> None:
    one = source(start_time=[100.0, 100.3, 100.3, 250.0], output_tokens=[5.0, 6.0, 7.0, 8.0])
    assert restarts(one).tolist() == [3]
    [mark] = Readings([one]).marks
    assert (mark.kind, mark.t_ns, mark.source) == ("restart", 4 * S, 0)
    # 8 came since the restart
    assert Readings([one]).increase("output_tokens", S, 4 * S) == 2 + 8


def test_without_a_start_time_counters_that_fall_tell_it() -> None:
    assert restarts(source(output_tokens=[5.0, 9.0, 2.0, 3.0])).tolist() == [2]
    assert restarts(source(**{"ttft.count": [5.0, NAN, 4.0]})).tolist() == [2]
    # a gauge may fall
    assert restarts(source(running=[5.0, 1.0])).tolist() == []


def test_an_exporter_s_restart_is_not_the_server_s() -> None:
    assert [m.kind for m in Readings([source(family="dcgm", start_time=[1.0, 9.0])]).marks] == ["exporter_restart"]


def test_failures_in_a_row_are_one_time_without_an_answer() -> None:
    one = source(at=[1.0, 2.0, 6.0, 7.0], running=[1.0, 1.0, 1.0, 1.0])
    one.failed = [(3 * S, "refused"), (4 * S, "refused"), (9 * S, "no answer in time")]
    first, last = Readings([one]).marks
    assert (first.kind, first.t_ns, first.until_ns) == ("unreachable", 3 * S, 6 * S)
    assert (last.t_ns, last.until_ns) == (9 * S, None)


def test_an_xid_is_a_value_and_only_a_new_one_happened() -> None:
    old = source(family="dcgm", **{"gpu_xid[0]": [31.0, 31.0, 79.0, 79.0]})
    assert [(m.kind, m.t_ns, m.what) for m in Readings([old]).marks] == [("xid", 3 * S, "XID 79 on GPU 0")]
    later = source(family="dcgm", **{"gpu_util[1]": [1.0] * 3, "gpu_xid[1]": [NAN, 48.0, 48.0]})
    assert [(m.t_ns, m.what) for m in Readings([later]).marks] == [(2 * S, "XID 48 on GPU 1")]
    assert Readings([source(family="dcgm", **{"gpu_xid[0]": [0.0, 0.0]})]).marks == ()


# -- buckets ------------------------------------------------------------------------------------------------------


def with_buckets(start: list[float], end: list[float], bounds: tuple[float, ...] = (0.1, 1.0, np.inf)) -> Source:
    found = source(running=[1.0, 1.0])
    edges = np.array(bounds)
    found.buckets = {"window_start": {"ttft": (edges, np.array(start))}, "window_end": {"ttft": (edges, np.array(end))}}
    return found


def test_buckets_are_what_came_between_the_edges() -> None:
    one, two = with_buckets([1, 5, 5], [4, 10, 12]), with_buckets([0, 0, 0], [1, 1, 1])
    bounds, counts = Readings([one, two]).buckets("ttft", "window_start", "window_end") or ((), ())
    assert list(bounds) == [0.1, 1.0, np.inf]
    assert list(counts) == [3 + 1, 2, 2]


def test_after_a_restart_buckets_are_those_of_the_new_process() -> None:
    told = Readings([with_buckets([50, 60, 70], [1, 3, 4])]).buckets("ttft", "window_start", "window_end")
    assert told is not None
    assert told[1].tolist() == [1, 2, 1]


def test_without_an_edge_there_are_no_buckets() -> None:
    assert Readings([with_buckets([0, 0, 0], [1, 1, 1])]).buckets("ttft", "start", "window_end") is None
    assert Readings([with_buckets([0, 0, 0], [1, 1, 1])]).buckets("e2e", "window_start", "window_end") is None
