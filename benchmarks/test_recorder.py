"""Rows a second into mapped segments. ``python -m pytest benchmarks/test_recorder.py``.

The loops are native (recorder_loop.pyx); the helper thread makes and gives back the segments meanwhile, as in a run.
Every figure is for ROWS rows, many segments of 4 MiB; rows a second are printed (pytest -s) and stand in the extra
information of --benchmark-json.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from llmgen.recorder import Recorder

LOOP = "recorder_loop"
ROWS = {"events": 10_000_000, "requests": 500_000, "gaps": 10_000_000}


@pytest.mark.parametrize("stream", ROWS)
def test_rows(benchmark: BenchmarkFixture, loop: ModuleType, tmp_path: Path, stream: str) -> None:
    count, made = ROWS[stream], []

    def prepare() -> tuple[tuple[Recorder, int], dict[str, object]]:
        for recorder, folder in made:
            recorder.close()
            shutil.rmtree(folder)
        made[:] = [(Recorder(str(tmp_path / "w"), 0, 1), tmp_path / "w")]
        return (made[0][0], count), {}

    written = benchmark.pedantic(getattr(loop, stream), setup=prepare, rounds=5)
    assert written in (count, None)
    assert made[0][0].disk_error == 0
    assert made[0][0].events_dropped == 0
    late = made[0][0].late_segments
    made[0][0].close()
    per_s = count / benchmark.stats.stats.median
    benchmark.extra_info.update(rows_per_s=per_s, late_segments=late)
    print(f"\n{stream}: {per_s / 1e6:.1f} M a second, waited for {late} segments of the last round")
