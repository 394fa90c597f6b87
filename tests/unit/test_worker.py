"""The worker process as its controller sees it: one line in, lines out, and its end with the end of the pipe."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from driving import MS, Driven, S, committed
from llmgen.columns import COUNTERS_DTYPE, Status, WorkerState
from llmgen.control import CONTROL_BYTES
from odd_servers import GOOD, OddServer, Peer, Request, always, answering, whole

WAIT_S = 30.0


class Process:
    """`python -m llmgen.worker` at the other end of two pipes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmgen.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._received = b""

    def send(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((message if isinstance(message, bytes) else msgspec.json.encode(message)) + b"\n")
        self.process.stdin.flush()

    def reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        until = time.monotonic() + WAIT_S
        while b"\n" not in self._received:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the worker says nothing"
            piece = self.process.stdout.read1()
            assert piece, self.process.stderr.read() if self.process.stderr else ""
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def close_pipe(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def worker() -> Iterator[Process]:
    process = Process()
    yield process
    process.process.kill()
    process.process.wait(WAIT_S)
    for stream in (process.process.stdin, process.process.stdout, process.process.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.close()


def make_setup(tmp_path, url: str, due=(0,), **settings: Any):
    """A setup with its plan and control file; the engine that wrote them is released."""
    with Driven(tmp_path, url, due, **settings) as driven:
        setup = driven.setup
    return msgspec.structs.replace(setup, directory=str(tmp_path / "worker-of-process"), worker=setup.worker)


def start_now(process: Process, delay_ns: int = 50 * MS) -> None:
    start = time.monotonic_ns() + delay_ns
    process.send({"start": start, "offer_for": 0, "window_start": 0, "window_end": 1 << 61})


def counters(tmp_path) -> np.void:
    return np.fromfile(tmp_path / "control.bin", COUNTERS_DTYPE, 1, offset=CONTROL_BYTES)[0]


def test_a_whole_life(tmp_path, worker):
    with OddServer(always(GOOD)) as server:
        worker.send(make_setup(tmp_path, server.url, [0, 0, 20 * MS], preconnect=2))
        assert worker.reply() == {"ready": True}
        assert counters(tmp_path)["state"] == WorkerState.ready
        assert counters(tmp_path)["pid"] == worker.process.pid
        assert server.accepted == 2
        assert not server.posts
        start_now(worker)
        done = worker.reply()["done"]
        assert worker.process.wait(WAIT_S) == 0
        assert len(server.posts) == 3
    rows = committed(tmp_path / "worker-of-process", "requests")
    assert [Status(int(s)) for s in rows["status"]] == [Status.ok] * 3
    assert done["events_dropped"] == done["disk_error"] == 0
    assert done["cpu_s"] >= done["user_s"] >= 0
    assert done["peak_rss_mb"] > done["user_rss_mb"] > 1
    assert counters(tmp_path)["state"] == WorkerState.finished


def test_the_end_of_the_pipe_is_its_end(tmp_path, worker):
    with OddServer(answering(lambda peer, _: peer.until_closed())) as server:
        worker.send(make_setup(tmp_path, server.url, [0, 3600 * S]))
        assert worker.reply() == {"ready": True}
        start_now(worker)
        until = time.monotonic() + WAIT_S
        while not server.posts:
            assert time.monotonic() < until
            time.sleep(0.005)
        worker.close_pipe()
        assert worker.process.wait(WAIT_S) == 0
    (row,) = committed(tmp_path / "worker-of-process", "requests")
    assert Status(int(row["status"])) is Status.cancelled


def test_the_end_of_the_pipe_before_the_start(tmp_path, worker):
    with OddServer(always(GOOD)) as server:
        worker.send(make_setup(tmp_path, server.url))
        assert worker.reply() == {"ready": True}
        worker.close_pipe()
        assert worker.process.wait(WAIT_S) == 0
        assert not server.posts


def test_an_interrupt_is_the_controllers_business(tmp_path, worker):
    with OddServer(always(GOOD)) as server:
        worker.send(make_setup(tmp_path, server.url))
        assert worker.reply() == {"ready": True}
        worker.process.send_signal(signal.SIGINT)
        start_now(worker)
        assert "done" in worker.reply()


def test_drain(tmp_path, worker):
    with OddServer(answering(lambda peer, _: peer.until_closed())) as server:
        worker.send(make_setup(tmp_path, server.url, [0, 3600 * S]))
        assert worker.reply() == {"ready": True}
        start_now(worker)
        until = time.monotonic() + WAIT_S
        while not server.posts:
            assert time.monotonic() < until
            time.sleep(0.005)
        worker.send({"drain": time.monotonic_ns() + 100 * MS})
        assert "done" in worker.reply()
    (row,) = committed(tmp_path / "worker-of-process", "requests")
    assert Status(int(row["status"])) is Status.cancelled


@pytest.mark.parametrize("line", [b"{}", b"no json", b'{"worker": 0}'])
def test_a_setup_that_cannot_be_read(worker, line):
    worker.send(line)
    assert "failed" in worker.reply()
    assert worker.process.wait(WAIT_S) == 1


def test_a_plan_that_is_gone(tmp_path, worker):
    setup = make_setup(tmp_path, "http://127.0.0.1:1")
    worker.send(msgspec.structs.replace(setup, plan=str(tmp_path / "nothing")))
    assert "nothing" in worker.reply()["failed"]
    assert worker.process.wait(WAIT_S) == 1


def test_a_plan_that_breaks_during_the_run(tmp_path, worker):
    """What goes wrong in the loop is told, and the records are closed."""
    with OddServer(always(GOOD)) as server:
        setup = make_setup(tmp_path, server.url, final=False)
        worker.send(setup)
        assert worker.reply() == {"ready": True}
        control = np.memmap(tmp_path / "control.bin", "<i8", "r+", shape=(5,))
        control[1] = 2  # a second segment is announced, and is not there
        start_now(worker)
        assert "the plan" in worker.reply()["failed"]
        assert worker.process.wait(WAIT_S) == 1
    rows = committed(tmp_path / "worker-of-process", "requests")
    assert len(rows) <= 1
    assert counters(tmp_path)["state"] == WorkerState.failed


def test_texts_of_failures_are_written_at_once_and_without_secrets(tmp_path, worker):
    def echo(peer: Peer, request: Request) -> None:
        if request.index:
            peer.until_closed()
        else:
            peer.send(whole(b"bad key sk-123456789 \xff" + b"x" * 3000, b"500 Oops"))

    with OddServer(answering(echo)) as server:
        worker.send(make_setup(tmp_path, server.url, [0, 0], secrets=["sk-123456789"]))
        assert worker.reply() == {"ready": True}
        start_now(worker)
        path = tmp_path / "worker-of-process" / "errors.jsonl"
        until = time.monotonic() + WAIT_S
        while not path.exists() or not path.read_text().endswith("\n"):
            assert time.monotonic() < until
            time.sleep(0.005)
    (line,) = [json.loads(line) for line in path.read_text().splitlines()][:1]
    assert line["status"] == Status.http_5xx
    assert line["http_status"] == 500
    assert line["text"].startswith("bad key *** \ufffdxxx")
    assert len(line["text"]) < 2100
