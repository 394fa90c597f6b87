"""The deterministic gate on speed: benchmarks/instructions.json. After a change that is meant: --update there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
@pytest.mark.skipif(not Path("/usr/include/valgrind/callgrind.h").exists(), reason="needs valgrind's headers")
def test_codecs_and_recorder_take_the_committed_instructions():
    command = [sys.executable, "-m", "benchmarks.instructions"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=350)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recorder, an event's row" in done.stdout
