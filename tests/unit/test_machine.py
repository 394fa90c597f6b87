"""Facts of this machine, where files tell them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmgen import machine


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"timer_loop": {"p50_us": 77, "p99_us": 3600.5, "more": 1}}', {"p50_us": 77.0, "p99_us": 3600.5}),
        ('{"timer_loop": {"p50_us": 77}}', None),
        ('{"timer_loop": {"p50_us": "x", "p99_us": 1}}', None),
        ('{"timer_loop": {"p50_us": NaN, "p99_us": 1}}', None),
        ("[1]", None),
        ("{", None),
        (None, None),
    ],
)
def test_the_timer_loop_of_the_last_selfbench(
    text: str | None, found: dict[str, float] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if text is not None:
        (tmp_path / "llmgen").mkdir()
        (tmp_path / "llmgen" / "selfbench.json").write_text(text)
    assert machine.timer_loop() == found
    assert machine.environment()["timer_loop"] == found


def test_the_tightest_quota_of_all_groups_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.setattr(machine, "own_groups", lambda: [inner, inner.parent, tmp_path])
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert machine.quota_cores() == 2.5
    monkeypatch.setattr(machine, "affinity", lambda: list(range(8)))
    assert machine.usable_cores() == 2


def test_own_groups_end_at_the_root() -> None:
    found = machine.own_groups()
    assert found[-1] == Path("/sys/fs/cgroup")
    assert all(one.is_relative_to("/sys/fs/cgroup") for one in found)


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not group sessions")
def test_a_new_session_has_the_niceness_of_its_process() -> None:
    program = (
        "import os; from llmgen import machine; print(os.nice(1)); machine.carry_niceness();"
        "print(open('/proc/self/autogroup').read().split()[-1])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, start_new_session=True)
    own, group = done.stdout.split()
    assert own == group


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no procfs")
def test_room_for_descriptors_is_made_at_once_and_none_is_kept() -> None:
    program = (
        "import os; from llmgen import machine; before = os.listdir('/proc/self/fd');"
        "machine.make_room_for_descriptors(4000); assert os.listdir('/proc/self/fd') == before;"
        "print(open('/proc/self/status').read().partition('FDSize:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4000
