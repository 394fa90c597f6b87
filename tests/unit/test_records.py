"""Merging raw segments and opening run directories, whole, crashed, cut and strange."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fabricate import MS, event_rows, never_sent, request_rows, run_info, write_run, write_segments
from llmgen import records
from llmgen.columns import (
    EVENT_DTYPE,
    HISTOGRAM_BUCKETS,
    HISTOGRAM_DTYPE,
    REQUEST_DTYPE,
    TIMELINE_DTYPE,
    Histogram,
    Status,
)
from llmgen.errors import RecordError
from llmgen.records import merge, open_run, read_errors


def raw_run(path: Path, rows: np.ndarray, workers: int = 2, **info: object) -> np.ndarray:
    """Raw directories of `rows` dealt to workers in turn; returns their events by row of requests.npy."""
    path.mkdir()
    (path / "run.json").write_text(json.dumps(run_info(len(rows), **info)))
    everything = []
    for worker in range(workers):
        mine = rows[worker::workers]
        events = event_rows(mine)
        write_segments(path / f"worker-{worker}", "requests", mine, per_segment=7, worker=worker)
        write_segments(path / f"worker-{worker}", "events", events, per_segment=13, worker=worker)
        merged = events.copy()
        merged["request"] = events["request"] * workers + worker
        everything.append(merged)
    return np.concatenate(everything)


def test_merge_sorts_requests_and_renumbers_events(tmp_path: Path) -> None:
    rows = request_rows(50)
    expected = raw_run(tmp_path / "run", rows, workers=3)
    assert merge(tmp_path / "run", run_info(50), None) == []
    run = open_run(tmp_path / "run")
    assert np.array_equal(run.requests, rows)
    assert np.array_equal(run.events, expected)
    assert not list((tmp_path / "run").glob("worker-*"))
    assert not list((tmp_path / "run").glob(".*"))
    assert np.array_equal(np.load(tmp_path / "run" / "requests.npy"), rows)  # readable without us


def test_only_committed_rows_count(tmp_path: Path) -> None:
    rows = request_rows(10)
    run_dir = tmp_path / "run"
    raw_run(run_dir, rows[:0], workers=1)
    write_segments(run_dir / "worker-0", "requests", rows, per_segment=6, committed=1)
    write_segments(run_dir / "worker-0", "events", event_rows(rows), per_segment=1000, committed=3)
    merge(run_dir, run_info(10), None)
    run = open_run(run_dir)
    assert run.requests["index"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert len(run.events) == 3


def test_requests_in_flight_are_lost_and_unsent_ones_appended(tmp_path: Path) -> None:
    rows = request_rows(10)
    rows["status"][4] = Status.in_flight
    raw_run(tmp_path / "run", rows[:8], workers=2)
    unsent = never_sent(rows)[6:]  # 6 and 7 have been sent after all: their rows win
    merge(tmp_path / "run", run_info(10), unsent)
    status = open_run(tmp_path / "run").requests["status"]
    assert status.tolist() == [0, 0, 0, 0, Status.lost, 0, 0, 0, Status.never_sent, Status.never_sent]


def test_earlier_attempts_go_apart(tmp_path: Path) -> None:
    rows = request_rows(4)
    again = rows[1:2].copy()
    again["attempt"] = 1
    run_dir = tmp_path / "run"
    raw_run(run_dir, np.concatenate([rows, again]), workers=1)
    merge(run_dir, run_info(4), None)
    run = open_run(run_dir)
    assert run.requests["index"].tolist() == [0, 1, 2, 3]
    assert run.requests["attempt"].tolist() == [0, 1, 0, 0]
    assert np.load(run_dir / "attempts.npy")["index"].tolist() == [1]
    assert (np.bincount(run.events["request"]) == 5).all()  # those of the first attempt are left out


def test_timelines_are_added_and_lag_is_the_largest(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    raw_run(run_dir, request_rows(2), workers=2)
    for worker, (seconds, lag) in enumerate((((0, 1, 2), 5), ((1, 2, 3), 9))):
        timeline = np.zeros(3, TIMELINE_DTYPE)
        timeline["second"], timeline["tokens"], timeline["in_flight"], timeline["lag_max_ns"] = (
            seconds,
            10,
            worker + 1,
            lag,
        )
        write_segments(run_dir / f"worker-{worker}", "timeline", timeline, per_segment=2, worker=worker)
    merge(run_dir, run_info(2), None)
    found = open_run(run_dir).timeline
    assert found["second"].tolist() == [0, 1, 2, 3]
    assert found["tokens"].tolist() == [10, 20, 20, 10]
    assert found["in_flight"].tolist() == [1, 3, 3, 2]
    assert found["lag_max_ns"].tolist() == [5, 9, 9, 9]


def test_histograms_of_a_killed_worker_are_completed_from_its_live_counts(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    raw_run(run_dir, request_rows(2), workers=1)
    flushed = np.zeros(1, HISTOGRAM_DTYPE)
    flushed["klass"], flushed["metric"], flushed["bucket"], flushed["count"], flushed["minute"] = (
        0,
        Histogram.gap,
        70,
        3,
        4,
    )
    write_segments(run_dir / "worker-0", "histograms", flushed)
    live = np.zeros((1, 2, len(Histogram), HISTOGRAM_BUCKETS), "<u4")
    live[0, 0, Histogram.gap, 70] = 5
    live[0, 1, Histogram.ttft, 90] = 1
    live.tofile(run_dir / "worker-0" / "histograms.live")
    merge(run_dir, run_info(2), None)
    found = open_run(run_dir).histograms
    key = ["minute", "klass", "metric", "outside", "bucket", "count"]
    assert sorted(found[key].tolist()) == [
        (4, 0, Histogram.gap, 0, 70, 3),
        (5, 0, Histogram.ttft, 1, 90, 1),
        (5, 0, Histogram.gap, 0, 70, 2),
    ]


def test_crashed_run_is_read_without_touching_it(tmp_path: Path) -> None:
    rows = request_rows(20)
    rows["status"][17:] = Status.in_flight
    expected = raw_run(tmp_path / "run", rows, state="running")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    run = open_run(tmp_path / "run")
    assert run.crashed
    assert run.state == "incomplete"
    assert np.count_nonzero(run.requests["status"] == Status.lost) == 3
    assert np.array_equal(run.events, expected)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_merge_that_was_interrupted_can_be_finished(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    raw_run(run_dir, request_rows(5), workers=2)
    backup = {path.name: path.read_bytes() for path in (run_dir / "worker-1").iterdir()}
    merge(run_dir, run_info(5), None)
    (run_dir / "worker-1").mkdir()
    for name, data in backup.items():
        (run_dir / "worker-1" / name).write_bytes(data)
    merge(run_dir, run_info(5), None)
    assert len(open_run(run_dir).requests) == 5
    assert not (run_dir / "worker-1").exists()


def test_a_full_disk_leaves_the_raw_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    raw_run(run_dir, request_rows(30))
    real = records._merge_events

    def full(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "_merge_events", full)
    with pytest.raises(OSError, match="No space"):
        merge(run_dir, run_info(30), None)
    monkeypatch.undo()
    assert not list(run_dir.glob(".*.tmp"))
    assert not (run_dir / "requests.npy").exists()
    assert len(open_run(run_dir).requests) == 30


def test_level_requests_has_no_events(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    info = run_info(3)
    info["config"]["record"] = "requests"
    write_segments(run_dir / "worker-0", "requests", request_rows(3))
    (run_dir / "run.json").write_text(json.dumps(info))
    merge(run_dir, info, None)
    assert open_run(run_dir).events is None
    assert len(open_run(run_dir).requests) == 3


def test_level_events_has_a_file_even_if_no_event_came(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "run.json").write_text(json.dumps(run_info(2)))
    merge(run_dir, run_info(2), never_sent(request_rows(2)))
    run = open_run(run_dir)
    assert len(run.events) == 0
    assert run.events.dtype == EVENT_DTYPE


def test_events_without_their_request_are_left_out_and_said(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    rows = request_rows(10)
    raw_run(run_dir, rows[:5], workers=1)
    write_segments(run_dir / "worker-0", "events", event_rows(rows), per_segment=1000)
    (note,) = merge(run_dir, run_info(5), None)
    assert "25 events without a request" in note
    assert len(open_run(run_dir).events) == 25


def test_damaged_segment_is_left_out_and_said(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    raw_run(run_dir, request_rows(10), workers=2)
    (run_dir / "worker-1" / "requests-000000.seg").write_bytes(b"\x01" * 9000)
    run = open_run(run_dir)
    assert run.requests["index"].tolist() == [0, 2, 4, 6, 8]
    assert any("requests-000000.seg of worker 1 is damaged" in note for note in run.notes)


@pytest.mark.parametrize("name", ["requests.npy", "events.npy"])
def test_a_cut_file_gives_the_rows_that_are_there(tmp_path: Path, name: str) -> None:
    rows = request_rows(10)
    path = write_run(tmp_path / "run", rows, event_rows(rows), run_info(10))
    data = (path / name).read_bytes()
    size = REQUEST_DTYPE.itemsize if name == "requests.npy" else EVENT_DTYPE.itemsize
    (path / name).write_bytes(data[: -2 * size - 5])
    run = open_run(path)
    found = run.requests if name == "requests.npy" else run.events
    whole = rows if name == "requests.npy" else event_rows(rows)
    assert np.array_equal(found, whole[:-3])
    assert f"{name} is cut short" in run.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "run.json").unlink(), "no run.json"),
        (lambda d: (d / "run.json").write_text("{"), "unreadable"),
        (lambda d: (d / "run.json").write_text("[]"), "not a run description"),
        (lambda d: (d / "run.json").write_text('{"schema": "llmgen.run/2"}'), "newer llmgen"),
        (lambda d: (d / "run.json").write_text('{"schema": "other/1"}'), "expected llmgen.run/1"),
        (lambda d: (d / "requests.npy").unlink(), "no records"),
    ],
)
def test_a_directory_that_cannot_be_read_is_one_clear_error(tmp_path: Path, change: object, message: str) -> None:
    rows = request_rows(3)
    path = write_run(tmp_path / "run", rows, event_rows(rows), run_info(3))
    change(path)  # type: ignore[operator]
    with pytest.raises(RecordError, match=message):
        open_run(path)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "damaged"), (b"nonsense" * 40, "damaged"), (None, "not those of this version")]
)
def test_damaged_requests_file(tmp_path: Path, data: bytes | None, message: str) -> None:
    rows = request_rows(3)
    path = write_run(tmp_path / "run", rows, None, run_info(3))
    if data is None:
        np.save(path / "requests.npy", rows[["due", "send"]])
    else:
        (path / "requests.npy").write_bytes(data)
    with pytest.raises(RecordError, match=message):
        _ = open_run(path).requests


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such run directory"):
        open_run(tmp_path / "nothing")


def test_records_of_a_newer_version(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    raw_run(run_dir, request_rows(3), workers=1)
    segment = run_dir / "worker-0" / "requests-000000.seg"
    data = bytearray(segment.read_bytes())
    data[8] = 99
    segment.write_bytes(data)
    with pytest.raises(RecordError, match="newer llmgen"):
        merge(run_dir, run_info(3), None)
    assert segment.exists()


def test_error_samples_survive_garbage(tmp_path: Path) -> None:
    (tmp_path / "errors.jsonl").write_bytes(
        b'{"status": "eof", "text": "\xff"}\n{"status": \n[1]\n{"status": "reset"}\n'
    )
    assert [entry["status"] for entry in read_errors(tmp_path)] == ["eof", "reset"]
    assert read_errors(tmp_path / "nothing") == []


def test_events_stay_in_the_order_of_their_worker(tmp_path: Path) -> None:
    rows = request_rows(6, every_ms=1)
    raw_run(tmp_path / "run", rows, workers=2)
    merge(tmp_path / "run", run_info(6), None)
    events = open_run(tmp_path / "run").events
    for row in range(6):
        gaps = np.diff(events["t"][events["request"] == row])
        assert (gaps == 10 * MS).all()
