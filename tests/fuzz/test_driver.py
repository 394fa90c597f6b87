"""The fuzzer's driver, on the ordinary build: that it runs, and that it reports what breaks. `scripts/fuzz` fuzzes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"

# Stands before the driver: one codec's parser misbehaves for inputs with a certain byte.
PLANTED = """
import os, sys
sys.path.insert(0, {folder!r})
import targets
from dataclasses import replace
right = targets.TARGETS["http1"]
def run(data, rng):
    if b"\\0" in data:
        {bug}
    return right.run(data, rng)
targets.TARGETS["http1"] = replace(right, run=run)
import fuzz_codecs
sys.exit(fuzz_codecs.main())
"""


def drive(tmp_path: Path, *arguments: str, bug: str | None = None) -> subprocess.CompletedProcess[str]:
    script = HERE / "fuzz_codecs.py"
    if bug is not None:
        script = tmp_path / "planted.py"
        script.write_text(PLANTED.format(folder=str(HERE), bug=bug))
    return subprocess.run(
        [sys.executable, str(script), *arguments, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SRC), "PYTHONHASHSEED": "0"},
    )


def test_every_target_runs_and_the_same_seed_does_the_same(tmp_path: Path) -> None:
    first, second = (drive(tmp_path, "--runs", "100", "--seconds", "300", "--seed", "3") for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    said = [line.split(",")[0] + line.rpartition(",")[2] for line in first.stdout.splitlines()]
    assert [line.split(":")[0] for line in said] == ["sse", "ndjson", "http1", "scanner", "hpack", "http2"]
    assert said == [line.split(",")[0] + line.rpartition(",")[2] for line in second.stdout.splitlines()]


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ("raise KeyError('planted')", "http1 failed"),
        ("targets.same('planted', 1, 2)", "http1 failed"),
        ("os.abort()", "http1 crashed (exit -6)"),
    ],
)
def test_what_breaks_is_reported_and_reproduced(tmp_path: Path, bug: str, said: str) -> None:
    done = drive(tmp_path, "http1", "--seconds", "60", bug=bug)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"fuzz: {said}" in done.stdout
    (case,) = tmp_path.glob("http1-*.case")
    assert b"\0" in case.read_bytes()
    again = drive(tmp_path, "--reproduce", str(case), bug=bug)
    assert again.returncode not in (0, 2)
    assert drive(tmp_path, "--reproduce", str(case)).returncode == 0
