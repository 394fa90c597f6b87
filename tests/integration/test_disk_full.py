"""A disk that fills up: loud, non-zero, and what was written stays readable. On a small tmpfs of the test's own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmgen import open_run
from odd_servers import DONE, END, FINISH, STREAM_HEAD, OddServer, Peer, Request, answering, chunk
from running import run_command

EVENTS = 100_000
PIECE = chunk(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 1000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """64 MB that nobody else writes to."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("no mount command")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True, timeout=20)


def many_events(peer: Peer, _: Request) -> None:
    peer.send(STREAM_HEAD)
    for _ in range(EVENTS // 1000):
        peer.send(PIECE)
    peer.send(chunk(FINISH + DONE) + END)


def flags(url: str, out: Path, requests: int) -> list[object]:
    return [
        *("run", "--url", url, "--out", out, "--arrival", "constant", "--rate", 20, "--requests", requests),
        *("--input-tokens", 8, "--output-tokens", EVENTS, "--workers", 1, "--drain", "20s"),
    ]


def check_full_run(out: Path, code: int, err: str) -> dict[str, object]:
    """Says so on stderr, in the verdict and by its exit code; the books balance."""
    assert code == 4, err
    assert "Traceback" not in err
    directory = (out / "latest").resolve()
    told = run_command("report", directory, "--format", "json")
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary["verdict"]["status"] == "incomplete"
    assert any("disk is full" in reason for reason in summary["verdict"]["reasons"]), summary["verdict"]
    counts = summary["requests"]
    parts = [counts["succeeded"], *counts["failed"].values(), counts["cancelled"], counts["never_sent"], counts["lost"]]
    assert counts["scheduled"] == sum(parts), counts
    text = run_command("report", directory)
    assert text.returncode == 0, text.stderr
    assert "disk is full" in " ".join(text.stdout.split())
    assert run_command("list", out).returncode == 0
    return summary


def test_a_disk_that_fills_up_during_the_run(disk):
    """Issue 2's case: nothing but the records fill it. There is no room to merge them either."""
    with OddServer(answering(many_events)) as server:
        done = run_command(*flags(server.url, disk, 80))
    assert "disk is full" in done.stderr + done.stdout
    summary = check_full_run(disk, done.returncode, done.stderr)
    assert summary["requests"]["never_sent"] > 0
    assert summary["requests"]["succeeded"] > 10


def test_a_disk_with_room_for_the_merge_but_not_for_the_run(disk, tmp_path):
    """Somebody frees space before the end: the files are those of any run."""
    (disk / "ballast").write_bytes(bytes(44 << 20))
    out = disk / "runs"

    def answer(peer: Peer, request: Request) -> None:
        many_events(peer, request)
        if request.index == 14:
            (disk / "ballast").unlink(missing_ok=True)

    with OddServer(answering(answer)) as server:
        done = run_command(*flags(server.url, out, 15))
    if done.returncode == 0:
        pytest.skip("the space came back before it was missed")
    check_full_run(out, done.returncode, done.stderr)


def test_a_disk_that_is_full_at_the_start(disk):
    (disk / "ballast").write_bytes(bytes(62 << 20))
    with OddServer(answering(many_events)) as server:
        done = run_command(*flags(server.url, disk / "runs", 5))
        assert not server.posts
    assert done.returncode == 4, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (disk / "runs").rglob("*") if path.is_file()]


def test_no_room_for_a_single_file(disk):
    free = shutil.disk_usage(disk).free
    (disk / "runs").mkdir()
    (disk / "ballast").write_bytes(bytes(free))
    with OddServer(answering(many_events)) as server:
        done = run_command(*flags(server.url, disk / "runs", 5))
        assert not server.posts
    assert done.returncode == 4, done.stderr
    assert "No space left on device" in done.stderr
    assert "--out" in done.stderr
    assert "Traceback" not in done.stderr


def test_events_of_a_full_disk_are_those_that_were_written(disk):
    (disk / "ballast").write_bytes(bytes(30 << 20))
    with OddServer(answering(many_events)) as server:
        done = run_command(*flags(server.url, disk / "runs", 40))
    check_full_run(disk / "runs", done.returncode, done.stderr)
    run = open_run(disk / "runs" / "latest")
    events = run.events
    assert events is not None
    assert len(events) > EVENTS
    assert (events["t"] > 0).all()
    assert (events["request"] < len(run.requests)).all()
