"""The controller's side of the worker processes: start, ready, go, watch, stop."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np

from llmgen.columns import WorkerState
from llmgen.errors import WorkerError
from llmgen.worker import Setup, Start

READY_WAIT_S: Final = 30.0  # imports, mapping the plan, preconnecting
SILENCE_S: Final = 3.0  # a worker whose heartbeat is older is stopped or stuck: 150 missed ticks
STARVED_S: Final = 30.0  # unless it could go on and gets no core, or waits for its disk: late is what it then reports
STOP_WAIT_S: Final = 2.0


class Worker:
    """One process and what it said last."""

    def __init__(self, number: int, setup: Setup, log: Path) -> None:
        self.number = number
        self.core = setup.core
        self.ready = False
        self.done: dict[str, Any] | None = None
        self.failed: str | None = None  # why it cannot be trusted to have finished
        self._pending = b""
        self._log = log
        with log.open("wb") as errors:
            # its own session: an interrupt from the terminal reaches the controller only
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llmgen.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self.output: IO[bytes] = self.process.stdout  # type: ignore[assignment]
        os.set_blocking(self.output.fileno(), False)
        self.send_raw(msgspec.json.encode(setup))

    @property
    def over(self) -> bool:
        return self.done is not None or self.failed is not None

    def send(self, command: Any) -> None:
        self.send_raw(msgspec.json.encode(command))

    def send_raw(self, line: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it is gone; `look` will tell how

    def read(self) -> None:
        """Takes in what it said."""
        try:
            data = self.output.read() or b""
        except BlockingIOError:
            return
        self._pending += data
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            message = json.loads(line)
            self.ready = self.ready or bool(message.get("ready"))
            self.done = message.get("done", self.done)
            self.failed = message.get("failed", self.failed)

    def look(self, heartbeat_ns: int) -> None:
        """Notices a process that died or stands still."""
        if self.over:
            return
        code = self.process.poll()
        if code is not None:
            self.read()
            if not self.over:
                self.failed = f"worker {self.number} {_death(code)}{self._last_words()}"
            return
        silent_s = (time.monotonic_ns() - heartbeat_ns) / 1e9 if heartbeat_ns else 0.0
        if silent_s > STARVED_S or (silent_s > SILENCE_S and not _starved(self.process.pid)):
            self.kill()
            self.failed = f"worker {self.number} stood still for {silent_s:.0f} s and was killed"

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f": {lines[-1][:200]}"
        return ""

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_WAIT_S)

    def close(self) -> None:
        """After `over`: the process goes by itself, or is helped."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.output.close()


def _starved(pid: int) -> bool:
    """Whether a process is runnable or waits for a disk, as /proc tells; one that was stopped is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "RD"
    except (OSError, IndexError):
        return False


def _death(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


class Workers:
    """All processes of a run. Every wait is bounded."""

    def __init__(self, setups: list[Setup], directory: Path, counters: np.ndarray) -> None:
        self.counters = counters
        self.all: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        try:
            for setup in setups:
                worker = Worker(setup.worker, setup, directory / f"worker-{setup.worker}.log")
                self.all.append(worker)
                self._selector.register(worker.output, selectors.EVENT_READ, worker)
        except BaseException:
            self.close()
            raise

    def wait(self, seconds: float) -> None:
        """Sleeps until a worker says something, `seconds` at most, and looks after all of them."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            worker: Worker = key.data
            worker.read()
            if worker.over or worker.process.poll() is not None:
                self._selector.unregister(worker.output)
        for worker in self.all:
            worker.look(int(self.counters["heartbeat"][worker.number]))

    def wait_ready(self) -> None:
        """Until every worker is ready. WorkerError names the one that is not."""
        until = time.monotonic() + READY_WAIT_S
        while not all(worker.ready for worker in self.all):
            self.wait(0.1)
            for worker in self.all:
                if worker.failed is not None:
                    raise WorkerError(f"worker {worker.number} could not start: {worker.failed}")
                if time.monotonic() > until and not worker.ready:
                    raise WorkerError(f"worker {worker.number} was not ready within {READY_WAIT_S:g} s")

    def start(self, start: Start) -> None:
        for worker in self.all:
            worker.send(start)

    def drain(self, until_ns: int) -> None:
        """Offer nothing more; what is in flight at `until_ns` is cancelled."""
        for worker in self.all:
            worker.send({"drain": until_ns})

    def kill(self) -> None:
        for worker in self.all:
            if worker.done is None:
                worker.kill()
                worker.failed = worker.failed or f"worker {worker.number} was killed by the controller"

    @property
    def over(self) -> bool:
        return all(worker.over for worker in self.all)

    @property
    def failures(self) -> list[str]:
        return [worker.failed for worker in self.all if worker.failed is not None]

    def disk_full(self) -> bool:
        states = self.counters["state"]
        return bool((states == WorkerState.disk_full).any())

    def details(self) -> list[dict[str, Any]]:
        """workers_detail of run.json."""
        rows = []
        for worker in self.all:
            counted = self.counters[worker.number]
            row: dict[str, Any] = {
                "worker": worker.number,
                "cpu": worker.core,
                "cpu_s": int(counted["cpu_ns"]) / 1e9,
                "events": int(counted["events"]),
                "reads": int(counted["reads"]),
                "clock_steps": int(counted["clock_steps"]),
                "state": "lost" if worker.failed else "finished",
                "exit": worker.process.poll(),
            }
            row.update(worker.done or {})
            if worker.failed:
                row["failure"] = worker.failed
            rows.append(row)
        return rows

    def close(self) -> None:
        for worker in self.all:
            worker.close()
        self._selector.close()
