"""Signals, and processes that die: no load goes on, what was recorded counts, and the report says what happened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llmgen.columns import COUNTERS_DTYPE, Status
from llmgen.control import CONTROL_BYTES, CONTROL_DTYPE
from odd_servers import DONE, FINISH, GOOD, STREAM_HEAD, OddServer, Peer, Request, always, answering, chunk, token
from running import PATIENCE_S, check_run, llmgen_command, run_command, statuses

SOON_S = 30.0  # bound of every wait here; what is waited for takes one to ten seconds
CANCEL_S = 5.0  # issue 2: after a signal, drain or cancel within 5 s
LOOSE_S = 15.0  # for ends that must come soon: merging and the report on a busy machine are in it


STEADY = ("--arrival", "constant", "--rate", 50, "--duration", "60s")


def long_answers(peer: Peer, _: Request) -> None:
    """Tokens for as long as the client wants."""
    peer.send(STREAM_HEAD)
    while True:
        peer.send(chunk(token()))
        if peer.server.enough.wait(0.02):
            break
    peer.send(chunk(FINISH) + chunk(DONE) + b"0\r\n\r\n")


class Ongoing:
    """A run as a command against a server of this test, and its processes."""

    def __init__(self, server: OddServer, out: Path, *flags: object) -> None:
        self.server, self.out = server, out
        self.command = llmgen_command(
            *("run", "--url", server.url, "--out", out, "--input-tokens", 8, "--output-tokens", 8, "--quiet"),
            *(flags if {"--concurrency", "--trace"} & set(flags) else (*STEADY, *flags)),
        )

    def wait_for(self, posts: int) -> None:
        until = time.monotonic() + SOON_S
        while len(self.server.posts) < posts:
            assert time.monotonic() < until, self.command.poll()
            assert self.command.poll() is None, self.command.communicate()
            time.sleep(0.01)

    @property
    def workers(self) -> list[int]:
        """Process ids, by number of the worker."""
        counters = np.memmap(self.directory / "control.bin", np.uint8, "r")
        count = (len(counters) - CONTROL_BYTES) // COUNTERS_DTYPE.itemsize
        return np.frombuffer(counters, COUNTERS_DTYPE, count, CONTROL_BYTES)["pid"].tolist()

    @property
    def directory(self) -> Path:
        return (self.out / "latest").resolve()

    def signal(self, number: int) -> None:
        self.command.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        out, err = self.command.communicate(timeout=PATIENCE_S)
        return self.command.returncode, out, err


@pytest.fixture
def ongoing(tmp_path) -> Iterator[object]:
    with contextlib.ExitStack() as stack:
        started: list[Ongoing] = []

        def start(handler, *flags: object) -> Ongoing:
            server = OddServer(handler)
            server.enough = threading.Event()
            stack.callback(server.stop)
            stack.callback(server.enough.set)
            started.append(Ongoing(server, tmp_path / "runs", *flags))
            return started[-1]

        yield start
        for one in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.command.pid, signal.SIGKILL) if one.command.poll() is None else None
            with contextlib.suppress(ValueError, subprocess.TimeoutExpired):
                one.command.communicate(timeout=SOON_S)


def gone(pid: int) -> bool:
    """Whether the process is no more (a zombie that nobody waited for counts as gone)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_gone(pids: list[int], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < until, "a process stays"
        time.sleep(0.02)


# -- interrupts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_offering_and_drains(ongoing, number):
    run = ongoing(always(GOOD), "--workers", 2)
    run.wait_for(20)
    pids = run.workers
    assert len(pids) == 2
    run.signal(number)
    code, _, err = run.end()
    assert code == 130, err
    assert "Traceback" not in err
    summary = check_run(run.directory)
    assert summary["verdict"]["status"] == "incomplete"
    assert "interrupted" in summary["verdict"]["reasons"]
    counts = summary["requests"]
    assert counts["succeeded"] >= 20
    assert counts["never_sent"] > 0
    assert counts["cancelled"] == counts["lost"] == 0
    info = json.loads((run.directory / "run.json").read_text())
    assert info["state"] == "incomplete"
    wait_gone(pids, 2.0)


def test_what_does_not_end_is_cancelled(ongoing):
    run = ongoing(answering(long_answers))
    run.wait_for(10)
    started = time.monotonic()
    run.signal(signal.SIGINT)
    code, _, err = run.end()
    assert code == 130, err
    assert time.monotonic() - started < CANCEL_S + LOOSE_S
    summary = check_run(run.directory)
    assert summary["requests"]["cancelled"] >= 10
    assert summary["requests"]["lost"] == 0
    rows = np.load(run.directory / "requests.npy")
    cancelled = rows[rows["status"] == Status.cancelled]
    assert (cancelled["first_token"] > 0).any()  # what came until then is recorded


def test_a_second_signal_stops_at_once(ongoing):
    run = ongoing(answering(long_answers))
    run.wait_for(10)
    pids = run.workers
    run.signal(signal.SIGINT)
    wait_until_draining(run)
    started = time.monotonic()
    run.signal(signal.SIGINT)
    wait_gone(pids, CANCEL_S)
    code, _, err = run.end()
    assert code == 130, err
    assert "Traceback" not in err
    assert time.monotonic() - started < LOOSE_S
    summary = check_run(run.directory)
    assert summary["requests"]["lost"] >= 10
    assert summary["verdict"]["status"] == "incomplete"
    assert run_command("report", run.directory).returncode == 0


def wait_until_draining(run: Ongoing) -> None:
    """Until the controller has acted on the first signal: a second one before that counts as the same moment."""
    until = time.monotonic() + SOON_S
    while not np.fromfile(run.directory / "control.bin", CONTROL_DTYPE, 1)["stop"][0]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_signal_before_the_start(tmp_path):
    """While the target is asked for its models: nothing is left but the exit code."""
    asked = threading.Event()

    def silent(peer: Peer) -> None:
        peer.request()
        asked.set()
        peer.until_closed()

    with OddServer(silent) as server:
        process = llmgen_command("run", "--url", server.url, "--out", tmp_path / "runs")
        assert asked.wait(SOON_S)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SOON_S)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


# -- workers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_worker_that_dies_or_stops_is_noticed_and_named(ongoing, number):
    """The others go on; its records count, what it had in flight is lost, what it had not begun never sent."""
    run = ongoing(answering(long_or_short), "--workers", 2, "--duration", "3s", "--drain", "2s")
    run.wait_for(40)
    os.kill(run.workers[1], number)
    code, _, err = run.end()
    assert code == 4, err
    summary = check_run(run.directory)
    assert summary["verdict"]["status"] == "incomplete"
    what = "stood still" if number is signal.SIGSTOP else number.name
    assert any("worker 1" in reason and what in reason for reason in summary["verdict"]["reasons"]), summary["verdict"]
    rows = np.load(run.directory / "requests.npy")
    mine, others = rows[rows["worker"] == 1], rows[rows["worker"] == 0]
    assert statuses(mine).keys() == {"ok", "lost", "never_sent"}
    assert statuses(others).keys() == {"ok", "cancelled"}
    assert len(rows) == 150
    events = np.load(run.directory / "events.npy")
    lost = np.nonzero((rows["worker"] == 1) & (rows["status"] == Status.lost))[0]
    assert np.isin(events["request"], lost).any()
    info = json.loads((run.directory / "run.json").read_text())
    assert [detail["state"] for detail in info["workers_detail"]] == ["finished", "lost"]


def long_or_short(peer: Peer, request: Request) -> None:
    """The first four never end: each worker has some in flight."""
    if request.index < 4:
        long_answers(peer, request)
    else:
        peer.send(GOOD)


def test_a_worker_of_a_closed_loop_dies(ongoing):
    run = ongoing(always(GOOD), "--workers", 2, "--concurrency", 4, "--duration", "2s")
    run.wait_for(40)
    os.kill(run.workers[0], signal.SIGKILL)
    code, _, err = run.end()
    assert code == 4, err
    summary = check_run(run.directory)
    assert summary["verdict"]["status"] == "incomplete"
    assert not any("add up" in reason for reason in summary["verdict"]["reasons"])


def test_the_only_worker_dies(ongoing):
    run = ongoing(always(GOOD), "--workers", 1)
    run.wait_for(20)
    os.kill(run.workers[0], signal.SIGKILL)
    code, _, err = run.end()
    assert code == 4, err
    summary = check_run(run.directory)
    assert any("worker 0 was killed by SIGKILL" in reason for reason in summary["verdict"]["reasons"])


# -- the controller ----------------------------------------------------------------------------------------------------


def test_no_load_without_a_controller(ongoing):
    run = ongoing(always(GOOD), "--workers", 2)
    run.wait_for(20)
    pids = run.workers
    os.kill(run.command.pid, signal.SIGKILL)
    run.command.communicate(timeout=SOON_S)
    wait_gone(pids, 5.0)  # a second, and what a busy machine adds
    sent = len(run.server.posts)
    time.sleep(0.3)  # at 50/s this would be 15 more
    assert len(run.server.posts) == sent
    # what is left is readable, and stays as it is
    before = sorted(str(path) for path in run.directory.rglob("*"))
    told = run_command("report", run.directory, "--format", "json")
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary["verdict"]["status"] == "incomplete"
    assert any("controller" in reason for reason in summary["verdict"]["reasons"])
    counts = summary["requests"]
    assert counts["succeeded"] >= 19
    assert counts["scheduled"] == sum(
        [counts["succeeded"], *counts["failed"].values(), counts["cancelled"], counts["never_sent"], counts["lost"]]
    )
    text = run_command("report", run.directory)
    assert text.returncode == 0, text.stderr
    listed = run_command("list", run.out)
    assert listed.returncode == 0
    assert sorted(str(path) for path in run.directory.rglob("*")) == before


def test_controller_and_workers_killed_in_the_middle_of_answers(ongoing):
    """All at once, as by a machine that goes down: the raw records are readable to the last row."""
    run = ongoing(answering(long_answers), "--workers", 2)
    run.wait_for(30)
    pids = run.workers
    for pid in [run.command.pid, *pids]:
        os.kill(pid, signal.SIGKILL)
    run.command.communicate(timeout=SOON_S)
    wait_gone(pids, 5.0)
    told = run_command("report", run.directory, "--format", "json")
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary["requests"]["lost"] >= 30
    assert summary["requests"]["scheduled"] == summary["requests"]["lost"]
    lines = run_command("export", run.directory, "--format", "csv").stdout.splitlines()
    assert len(lines) == 1 + summary["requests"]["lost"]


# -- conversations -----------------------------------------------------------------------------------------------------


def conversations(folder: Path, *flags: object) -> tuple[object, ...]:
    """Flags of four conversations at a time, of five turns each."""
    path = folder / "sessions.json"
    path.write_text(json.dumps({"workload": {"sessions": {"turns": 5, "think": "20ms"}}}))
    return (path, "--concurrency", 4, "--workers", 2, "--duration", "3s", "--drain", "2s", *flags)


def check_whole(rows: np.ndarray) -> None:
    """Every conversation that was begun is accounted for to its last turn."""
    assert set(np.unique(rows["session"], return_counts=True)[1]) == {5}
    rows = np.sort(rows, order=["session", "turn"]).reshape(-1, 5)
    ok = rows["status"] == Status.ok
    assert (ok[:, :-1] >= ok[:, 1:]).all()  # nothing follows what did not succeed
    sent = rows["status"] != Status.never_sent
    assert (sent[:, 1:] <= ok[:, :-1]).all()


def test_an_interrupt_ends_conversations(ongoing, tmp_path):
    run = ongoing(always(GOOD), *conversations(tmp_path, "--duration", "60s"))
    run.wait_for(60)
    run.signal(signal.SIGINT)
    code, _, err = run.end()
    assert code == 130, err
    check_run(run.directory)
    rows = np.load(run.directory / "requests.npy")
    check_whole(rows)
    assert statuses(rows).keys() <= {"ok", "never_sent", "cancelled"}
    assert np.count_nonzero(rows["status"] == Status.never_sent) > 0


def test_a_worker_that_holds_conversations_dies(ongoing, tmp_path):
    run = ongoing(always(GOOD), *conversations(tmp_path))
    run.wait_for(60)
    os.kill(run.workers[0], signal.SIGKILL)
    code, _, err = run.end()
    assert code == 4, err
    summary = check_run(run.directory)
    assert summary["verdict"]["status"] == "incomplete"
    assert not any("add up" in reason for reason in summary["verdict"]["reasons"])
    rows = np.load(run.directory / "requests.npy")
    check_whole(rows)
    assert np.count_nonzero(rows["status"] == Status.ok) > 200  # the other worker went on


def test_a_worker_that_holds_recorded_conversations_dies(ongoing, tmp_path):
    """Turns that waited for its answers are never sent; those of the other worker are."""
    trace = tmp_path / "chats.jsonl"
    row = {"input_length": 8, "output_length": 4}
    trace.write_text(
        "".join(
            json.dumps({"chat_id": i, "parent_chat_id": i - 4 if i >= 4 else -1, "timestamp": i * 0.01, **row}) + "\n"
            for i in range(200)
        )
    )

    def slow(peer: Peer, request: Request) -> None:
        peer.server.enough.wait(0.1)
        peer.send(GOOD)

    flags = ("--trace", trace, "--trace-format", "qwen", "--workers", 2, "--drain", "5s")
    run = ongoing(answering(slow), *flags)
    run.wait_for(20)
    os.kill(run.workers[0], signal.SIGKILL)
    code, _, err = run.end()
    assert code == 4, err
    check_run(run.directory)
    rows = np.load(run.directory / "requests.npy")
    assert len(rows) == 200
    mine, others = (rows[rows["worker"] == worker] for worker in (0, 1))
    assert statuses(others) == {"ok": 100}
    assert statuses(mine).keys() <= {"ok", "lost", "never_sent"}
    assert np.count_nonzero(mine["status"] == Status.never_sent) > 50
