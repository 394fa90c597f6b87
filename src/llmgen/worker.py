"""One worker process: `python -m llmgen.worker`.

Its setup comes as one line of JSON on standard input, so that no secret stands in an argument; commands follow on the
same pipe, replies go out on standard output, a line each. The end of the pipe is the end of the worker within a second:
no load outlives its controller.

    controller → worker   Setup, then {"start": …} | {"drain": until_ns} | {"cancel": true}
    worker → controller   {"ready": true} | {"done": {...}} | {"failed": text}
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from llmgen import machine
from llmgen._core import Engine
from llmgen.columns import WorkerState
from llmgen.credentials import hide
from llmgen.wire.scanner import Rules

TICK_S: Final = 0.02  # timeouts, counters and the timeline need no more; 50 ticks cost 0.1 % of a core
TICKS_A_LOOK: Final = 50  # a look at our memory a second: 30 us for reading /proc
PRECONNECT_WAIT_S: Final = 15.0


class HeadSetup(msgspec.Struct, frozen=True):
    """How answers to requests with this head are read."""

    stream: bool
    needs_end: int  # dialects.End: one of these signs must have come; 0: none
    dialect: str  # name of the scanner's rules
    framing: str = "sse"  # sse | ndjson: what a stream of unknown content type is
    tokens: bool = True  # the answer bears tokens
    rules: list[Any] | None = None  # the scanner's rules where no name knows them


class TargetSetup(msgspec.Struct, frozen=True):
    addresses: list[tuple[Any, ...]]
    protocol: int
    secure: bool
    heads: list[bytes]
    host: str
    weight: int = 1  # share of the requests


class TlsSetup(msgspec.Struct, frozen=True):
    insecure: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs; times in ns."""

    worker: int
    directory: str  # of its raw records
    plan: str
    control: str
    id_head: str  # of every request's x-request-id
    seed: int
    trace_prefix: int
    classes: int
    heads: list[HeadSetup]
    targets: list[TargetSetup]
    tls: TlsSetup | None = None
    record_events: bool = True
    core: int | None = None
    timeout_connect: int
    timeout_first_token: int
    timeout_idle: int
    timeout_total: int
    patience: int = 0  # 0: without end
    drain: int
    spin: int = 0
    connections: int = 0
    streams_per_connection: int = 0
    preconnect: int = 0
    closed_slots: int = 0
    retries: int = 0
    source_addresses: list[tuple[Any, ...]] = []  # as a target's addresses, their port 0
    balance: str = "round-robin"
    sticky: bool = True
    kernel_stamps: bool = True
    traceparent: bool = False
    resend_unprocessed: bool = False
    keep_bodies: bool = False
    secrets: list[str] = []  # what a server may echo and no file may hold
    http2_engine: str = "native"
    window_start: int = 0
    window_end: int = (1 << 63) - 1
    max_event_bytes: int = 1 << 20
    max_answer_bytes: int = 1 << 24
    max_head_bytes: int = 1 << 16
    read_bytes: int = 1 << 18


class Start(msgspec.Struct, frozen=True):
    """The common start; the others count from it."""

    start: int
    offer_for: int  # 0: as long as the plan says
    window_start: int
    window_end: int


class Worker:
    """Engine, loop and control pipe of one process."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        rules = {head.dialect: Rules(head.dialect, head.rules) for head in setup.heads}
        self.engine = Engine(setup, [rules[head.dialect] for head in setup.heads])
        self.loop = uvloop.new_event_loop()
        self.answers = Path(setup.directory).parent / f"answers-{setup.worker}.jsonl"
        self.samples = (Path(setup.directory) / "errors.jsonl").open("a", encoding="utf-8")
        self.pending = b""
        self.failure: BaseException | None = None
        self.started = False
        self.ticks = 0
        self.peak_user_rss_mb = 0.0
        self.before = resource.getrusage(resource.RUSAGE_SELF)  # imports and set-up are not the load's

    def run(self) -> int:
        """Serves until the run is over, the pipe ends or something breaks; the process's exit code."""
        loop = self.loop
        loop.set_exception_handler(self.on_exception)
        loop.add_reader(self.engine.fileno(), self.engine.on_ready)
        loop.add_reader(0, self.on_control)
        os.set_blocking(0, False)
        loop.call_soon(self.become_ready)
        gc.collect()
        gc.freeze()
        gc.disable()  # the hot loop makes no cycles; a collection would be a pause of milliseconds
        try:
            loop.run_forever()
        finally:
            loop.remove_reader(self.engine.fileno())
            loop.remove_reader(0)
        if self.failure is not None:
            self.engine.state(WorkerState.failed)
            self.engine.release()
            reply({"failed": f"{type(self.failure).__name__}: {self.failure}"})
            return 1
        return 0

    def on_exception(self, _: Any, context: dict[str, Any]) -> None:
        self.failure = context.get("exception") or RuntimeError(context.get("message"))
        self.loop.stop()

    def become_ready(self) -> None:
        if self.setup.preconnect:
            self.engine.preconnect(self.setup.preconnect)
        self.wait_connected(time.monotonic() + PRECONNECT_WAIT_S)

    def wait_connected(self, until: float) -> None:
        self.engine.tick()
        if self.engine.connecting() and time.monotonic() < until:
            self.loop.call_later(TICK_S, self.wait_connected, until)
            return
        self.engine.state(WorkerState.ready)
        reply({"ready": True})
        self.loop.call_later(TICK_S, self.idle)

    def idle(self) -> None:
        """Before the start: a heartbeat."""
        if not self.started:
            self.engine.tick()
            self.engine.state(WorkerState.ready)
            self.loop.call_later(TICK_S, self.idle)

    def tick(self) -> None:
        goes_on = self.engine.tick()
        self.ticks += 1
        if self.ticks % TICKS_A_LOOK == 0:
            self.look_at_memory()
        self.write_samples()
        self.write_bodies()
        if goes_on:
            self.loop.call_later(TICK_S, self.tick)
        else:
            self.finish()

    def look_at_memory(self) -> None:
        user = machine.memory_of(os.getpid()).get("user_rss_mb", 0.0)
        self.peak_user_rss_mb = max(self.peak_user_rss_mb, user)

    def write_samples(self) -> None:
        """Texts of failed requests, at once: a killed worker has not lost them."""
        samples = self.engine.samples
        if not samples:
            return
        for status, http_status, index, target, text in samples:
            row = {"status": status, "http_status": http_status, "index": index, "target": target}
            shown = hide(text.decode("utf-8", "replace"), self.setup.secrets)
            self.samples.write(json.dumps({**row, "text": shown}) + "\n")
        samples.clear()
        self.samples.flush()

    def write_bodies(self) -> None:
        """Raw answers, with --keep-bodies: one JSON line each, in the order in which they ended."""
        bodies = self.engine.bodies
        if not bodies:
            return
        with self.answers.open("a", encoding="utf-8") as file:
            for index, http_status, body in bodies:
                shown = hide(body.decode("utf-8", "replace"), self.setup.secrets)
                row = {"index": index, "http_status": http_status, "body": shown}
                file.write(json.dumps(row) + "\n")
        bodies.clear()

    def finish(self) -> None:
        self.look_at_memory()
        memory = {**machine.memory_of(os.getpid()), "peak_user_rss_mb": self.peak_user_rss_mb}
        self.engine.finish()
        self.write_samples()
        self.write_bodies()
        self.samples.close()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        user = usage.ru_utime - self.before.ru_utime
        recorder = self.engine.recorder
        reply(
            {
                "done": {
                    "cpu_s": round(user + usage.ru_stime - self.before.ru_stime, 6),
                    "user_s": round(user, 6),
                    "events_dropped": recorder.events_dropped,
                    "late_segments": recorder.late_segments,
                    "disk_error": recorder.disk_error,
                    "clock_steps": self.engine.clock_steps,
                    "flow_blocked": self.engine.flow_blocked_ns,
                    "tls_handshakes": self.engine.tls_handshakes[0],
                    "tls_resumed": self.engine.tls_handshakes[1],
                    **memory,
                }
            }
        )
        self.loop.stop()

    def on_control(self) -> None:
        try:
            data = os.read(0, 65536)
        except BlockingIOError:
            return
        if not data:
            # the controller is gone: offer nothing more and go
            self.engine.cancel()
            self.engine.finish()
            self.loop.stop()
            return
        self.pending += data
        *lines, self.pending = self.pending.split(b"\n")
        for line in lines:
            self.obey(json.loads(line))

    def obey(self, command: dict[str, Any]) -> None:
        if "start" in command:
            start = msgspec.convert(command, Start)
            self.started = True
            self.before = resource.getrusage(resource.RUSAGE_SELF)
            self.engine.start(start.start, start.offer_for, start.window_start, start.window_end)
            self.loop.call_later(TICK_S, self.tick)
        elif "drain" in command:
            self.engine.drain(command["drain"])
        elif "cancel" in command:
            self.engine.cancel()


def reply(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def read_line() -> bytes:
    """The first line of standard input, byte-exact: nothing of what follows it may be swallowed by a buffer."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 1 << 20)
        if not data:
            break
        line += data
    return line


def main() -> int:
    """Reads the setup, pins itself, serves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller alone decides what an interrupt means
    line = read_line()
    if not line:
        return 1
    try:
        setup = msgspec.json.decode(line, type=Setup)
        machine.make_room_for_descriptors(machine.raise_descriptor_limit())
        machine.carry_niceness()  # the controller gave us a session of our own
        if setup.core is not None:
            os.sched_setaffinity(0, {setup.core})
        worker = Worker(setup)
    except (OSError, ValueError, MemoryError, msgspec.MsgspecError) as error:
        reply({"failed": f"{type(error).__name__}: {error}"})
        return 1
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
