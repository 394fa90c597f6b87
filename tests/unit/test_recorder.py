"""Files of the native recorder: what is in them before, during and after a run. Rows come from test_engine.py."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from driving import Driven
from llmgen.columns import (
    EVENT_DTYPE,
    HISTOGRAM_BUCKETS,
    HISTOGRAM_DTYPE,
    REQUEST_DTYPE,
    SEGMENT_BYTES,
    SEGMENT_HEADER_BYTES,
    SEGMENT_HEADER_DTYPE,
    SEGMENT_MAGIC,
    TIMELINE_DTYPE,
    Histogram,
    bucket_bounds_ns,
)
from llmgen.recorder import Recorder
from odd_servers import GOOD, OddServer, always

ROWS = {"requests": REQUEST_DTYPE, "events": EVENT_DTYPE, "timeline": TIMELINE_DTYPE, "histograms": HISTOGRAM_DTYPE}


def header(path: Path) -> np.void:
    return np.fromfile(path, SEGMENT_HEADER_DTYPE, 1)[0]


def test_segments_are_allocated_and_empty_from_the_start(tmp_path):
    recorder = Recorder(str(tmp_path / "worker-3"), 3, 2)
    try:
        for stream, dtype in ROWS.items():
            path = tmp_path / "worker-3" / f"{stream}-000000.seg"
            head = header(path)
            assert head["magic"] == SEGMENT_MAGIC
            assert head["row_bytes"] == dtype.itemsize
            assert head["worker"] == 3
            assert head["sequence"] == head["first_row"] == head["committed"] == 0
            # allocated, not sparse: a full disk must show here and not as a signal in the hot loop
            assert path.stat().st_blocks * 512 >= path.stat().st_size
        assert (tmp_path / "worker-3" / "requests-000000.seg").stat().st_size == SEGMENT_BYTES
        live = tmp_path / "worker-3" / "histograms.live"
        assert live.stat().st_size == 2 * 2 * len(Histogram) * HISTOGRAM_BUCKETS * 4
    finally:
        recorder.close()


def test_closing_cuts_what_is_not_used(tmp_path):
    recorder = Recorder(str(tmp_path), 0, 1)
    recorder.close()
    recorder.close()
    assert sorted(path.name for path in tmp_path.glob("*.seg")) == [f"{stream}-000000.seg" for stream in sorted(ROWS)]
    assert {path.stat().st_size for path in tmp_path.glob("*.seg")} == {SEGMENT_HEADER_BYTES}
    assert recorder.disk_error == recorder.events_dropped == recorder.late_segments == 0


def test_a_recorder_that_nobody_closed_gives_its_thread_back(tmp_path):
    before = len(os.listdir("/proc/self/task"))
    recorder = Recorder(str(tmp_path), 0, 1)
    assert len(os.listdir("/proc/self/task")) == before + 1
    del recorder
    assert len(os.listdir("/proc/self/task")) == before


def test_level_requests_has_no_event_files(tmp_path):
    recorder = Recorder(str(tmp_path), 0, 1, False)
    recorder.close()
    assert not list(tmp_path.glob("events-*"))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Recorder(str(tmp_path / "file" / "worker-0"), 0, 1)
    with pytest.raises(OSError, match="too long"):
        Recorder("x" * 4000, 0, 1)


def test_files_of_which_the_system_allows_no_more(tmp_path):
    """A file size limit shows as EFBIG of the first write: an OSError before any load."""
    script = (
        "import sys\nfrom llmgen.recorder import Recorder\n"
        "try:\n    Recorder(sys.argv[1], 0, 1)\nexcept OSError as error:\n    print(error.strerror)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert done.returncode in (0, -25), done.stderr  # -25: SIGXFSZ, where the kernel sends it
    if done.returncode == 0:
        assert done.stdout.strip() == "File too large"


def test_histograms_hold_what_the_rows_tell(tmp_path):
    """One count a value, in the bucket that contains it; the live file and the flushed rows agree."""
    with OddServer(always(GOOD)) as server, Driven(tmp_path, server.url, [0] * 20) as driven:
        driven.start()
        driven.until(lambda: driven.counters["ended"][0] == 20)
        shape = (2, len(Histogram), HISTOGRAM_BUCKETS)
        live = np.fromfile(tmp_path / "worker-0" / "histograms.live", "<u4").reshape(shape)
        rows = driven.run()
    path = tmp_path / "worker-0" / "histograms-000000.seg"
    flushed = np.fromfile(path, HISTOGRAM_DTYPE, int(header(path)["committed"]), offset=SEGMENT_HEADER_BYTES)
    bounds = bucket_bounds_ns()
    for metric, values in (
        (Histogram.ttft, rows["first_token"] - rows["send"]),
        (Histogram.lag, rows["dispatch"] - rows["due"]),
    ):
        wanted = np.bincount(np.searchsorted(bounds, values, side="right") - 1, minlength=HISTOGRAM_BUCKETS)
        np.testing.assert_array_equal(live[0, metric], wanted)
        mine = flushed[flushed["metric"] == metric]
        got = np.zeros(HISTOGRAM_BUCKETS, np.int64)
        np.add.at(got, mine["bucket"], mine["count"])
        np.testing.assert_array_equal(got, wanted)
    assert not live[1].any()  # nothing is due outside of the window
