"""One run from start to finish: the file to read first.

    configuration → look at the target → plan → workers ready → common start → watch → merge → summary and report

This process, the controller, sends nothing itself during the load. It writes the plan a little ahead, reads the
workers' counters, and alone handles interrupts. Every wait is bounded: a run always ends with a report.
"""

from __future__ import annotations

import contextlib
import errno
import math
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np

from llmgen import machine, rundir
from llmgen import target as targets_of
from llmgen import workers as processes
from llmgen.abort import STOPPED, AbortRule, AbortWatch
from llmgen.abort import parse as parse_abort
from llmgen.config import RunConfig, redact
from llmgen.control import ControlBlock
from llmgen.errors import DiskError
from llmgen.exporter import exporting
from llmgen.live import LiveHistograms, LiveView
from llmgen.logs import log, set_up_log
from llmgen.metrics.figures import Summary
from llmgen.metrics.summary import summarise, write_summary
from llmgen.metrics.verdict import exit_code
from llmgen.planning import PlanBuilder
from llmgen.preparing import Prepared, prepare, request_headers, warn_of_proxies
from llmgen.preview import refuse_expensive
from llmgen.records import NEVER_SENT, Run, merge, open_run, taken_up
from llmgen.report import html
from llmgen.setups import check_limits, setups, workers_wanted
from llmgen.telemetry import sampling
from llmgen.unsent import unsent
from llmgen.validation import complete, validate
from llmgen.worker import Setup, Start

NS: Final = 1_000_000_000
FOREVER_NS: Final = 1 << 61
START_DELAY_S: Final = 0.3  # from "go" to the common start: every worker has read it by then
AHEAD_S: Final = 30.0  # the plan is written so far ahead of the clock
AHEAD_ROWS: Final = 65_536  # or, in a closed loop, so far ahead of what is claimed
LOOK_S: Final = 0.1
STOP_S: Final = 5.0  # after an interrupt: so long may what is in flight take
OVERTIME_S: Final = 15.0  # beyond the drain: workers that still run are killed
NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Result:
    """What a run brought."""

    directory: Path
    summary: Summary
    exit_code: int
    _run: Run = field(repr=False)

    @property
    def requests(self) -> np.ndarray:
        """REQUEST_DTYPE (requests,)."""
        return self._run.requests

    @property
    def events(self) -> np.ndarray | None:
        """EVENT_DTYPE (events,), None at level `requests`."""
        return self._run.events


def run(
    config: RunConfig,
    *,
    progress: bool | None = None,
    quiet: bool = False,
    json_out: bool = False,
    log_json: bool = False,
    directory: Path | None = None,
    listen_metrics: str | None = None,
) -> Result:
    """Offers the load, records, reports.

    progress: the live view, plain lines where standard error is no terminal; None: unless quiet or json_out.
    directory: a fresh one of the caller's; None: one in `out`, named by time and name.
    listen_metrics: HOST:PORT where Prometheus may read the counters during the run.
    Raises ConfigError and TargetError before any load is sent, WorkerError if no worker could start; everything later
    is in the result.
    """
    set_up_log(log_json, quiet)
    config, notes = complete(config)
    validate(config)
    refuse_expensive(config)
    rule = parse_abort(config.client.abort_on) if config.client.abort_on else None
    for note in notes:
        log.info(note)
    warn_of_proxies()
    headers = request_headers(config)
    prepared = prepare(config, headers)
    directory = rundir.make(config.out, config.name) if directory is None else rundir.take(directory)
    try:
        controller = Controller(config, prepared, directory, rule)
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise as_disk_error(error, directory) from None
    show = not quiet and not json_out if progress is None else progress
    try:
        with exporting(listen_metrics, controller.control.counters, controller.live_histograms(), controller.info):
            controller.load(show)
    except BaseException as error:
        controller.give_up()
        raise as_disk_error(error, directory) from None
    return controller.conclude()


def as_disk_error(error: BaseException, directory: Path) -> BaseException:
    """DiskError in place of an OSError that says that no space is left; anything else as it is."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return DiskError(f"{directory}: {error.strerror}; free some, or name another folder with --out")
    return error


# -- the load ------------------------------------------------------------------------------------------------------


class Controller:
    """The state of one run between its configuration and its report."""

    def __init__(self, config: RunConfig, prepared: Prepared, directory: Path, rule: AbortRule | None) -> None:
        self.config = config
        self.prepared = prepared
        self.directory = directory
        self.run_id = secrets.token_hex(6)
        self.reasons: list[str] = []
        self.interrupts = 0
        self.interrupted = False
        self.start_ns = self.end_ns = -1
        self.watch = AbortWatch(rule)
        self.plan_dir = directory / "plan"
        self.steal = machine.cpu_times()
        self.worker_details: list[dict[str, Any]] = []
        self.plan = self.make_plan()
        self.info = self.first_info()
        rundir.write_json(directory / "run.json", self.info)
        self.control = ControlBlock(directory / "control.bin", self.count)
        self.workers: processes.Workers | None = None
        self.telemetry = sampling.Sampler(config, directory)

    # -- plan ---------------------------------------------------------------------------------------------------------

    def make_plan(self) -> PlanBuilder:
        """The plan's first segments, for as many workers as its load needs."""
        most = self.config.client.connections or self.config.load.concurrency or 1 << 16
        self.count = min(self.config.client.workers or 1, most)
        plan = PlanBuilder(self.config, self.plan_dir, self.count, self.prepared.model, self.prepared.tokens)
        plan.write_next()
        if self.config.client.workers is None:
            # one core is left to this process
            wanted = max(1, min(workers_wanted(self.config, plan), machine.usable_cores() - 1, most))
            if wanted > 1:
                shutil.rmtree(self.plan_dir)
                self.count = wanted
                plan = PlanBuilder(self.config, self.plan_dir, wanted, self.prepared.model, self.prepared.tokens)
                plan.write_next()
        if plan.schedule.trace:
            plan.write_all()  # a broken row is found before anything is sent
        return plan

    def plan_ahead(self) -> None:
        """Keeps the plan ahead of the clock, and tells the workers of it."""
        plan, control = self.plan, self.control.control
        while not plan.finished and self.plan_is_short():
            try:
                plan.write_next()
            except OSError as error:
                if error.errno not in NO_SPACE or self.start_ns < 0:
                    raise
                self.stop_offering(f"the disk is full: the plan ends after {plan.rows_written} requests")
                return
            control["plan_segments"][0] = plan.segments
        control["plan_segments"][0] = plan.segments
        control["plan_final"][0] = int(plan.finished)

    def plan_is_short(self) -> bool:
        if self.control.control["stop"][0]:
            return False
        if self.plan.schedule.closed:
            return self.plan.numbers_written - int(self.control.control["claimed"][0]) < AHEAD_ROWS
        elapsed = 0.0 if self.start_ns < 0 else (time.monotonic_ns() - self.start_ns) / NS
        return self.plan.last_due_ns / NS < elapsed + AHEAD_S

    # -- workers ------------------------------------------------------------------------------------------------------

    def setups(self) -> list[Setup]:
        return setups(self.config, self.prepared, self.plan, self.run_id, self.directory, self.plan_dir, self.count)

    def load(self, show: bool) -> None:
        """Starts the workers, gives the common start, watches until all are over."""
        check_limits(self.config, self.prepared, self.count)
        self.plan_ahead()
        with interrupts(self.on_signal):
            self.workers = processes.Workers(self.setups(), self.directory, self.control.counters)
            self.workers.wait_ready()
            self.go()
            view = self.live_view() if show else None
            try:
                if view is not None:
                    view.start()
                self.watch_over(view)
            finally:
                if view is not None:
                    view.stop()
        self.end_ns = time.monotonic_ns()
        self.telemetry.stop()
        self.worker_details = self.workers.details()
        self.workers.close()

    def go(self) -> None:
        assert self.workers is not None
        self.start_ns = time.monotonic_ns() + round(START_DELAY_S * NS)
        self.start_realtime_ns = time.time_ns() + round(START_DELAY_S * NS)
        self.control.control["start"][0] = self.start_ns
        window_start, window_end = self.window_ns()
        offer_for = self.plan.schedule.duration_ns or 0
        self.workers.start(Start(self.start_ns, offer_for, window_start, min(window_end, FOREVER_NS)))
        window = {"start_ns": self.start_ns + window_start, "end_ns": None}  # as far as a crashed run tells
        self.info.update(start_ns=self.start_ns, start_realtime_ns=self.start_realtime_ns, window=window)
        rundir.write_json(self.directory / "run.json", self.info)
        rundir.point_latest(self.directory)
        self.telemetry.start(self.start_ns, self.start_ns + window_start, self.start_ns + window_end)

    def drop_bodies(self) -> None:
        """Takes from the disk what every worker has left behind."""
        if not self.config.keep_bodies:
            self.plan.drop_bodies(int(self.control.counters["passed_segments"].min()))

    def watch_over(self, view: LiveView | None) -> None:
        """Until every worker has said that it is done, has died, or its time is over."""
        assert self.workers is not None
        workers, told = self.workers, 0
        while not workers.over:
            self.plan_ahead()
            self.drop_bodies()
            workers.wait(LOOK_S)
            if self.interrupts > told:
                told = self.interrupts
                self.stop(killing=told > 1)
            if view is not None:
                planned = self.plan.rows_written if self.plan.finished else None
                view.update(self.control.counters, planned, "stopping" if self.interrupts else "")
            reason = None if self.interrupts or self.reasons else self.watch.look(self.control.counters)
            if reason is not None:
                self.stop_offering(f"{STOPPED}{reason}")
            if time.monotonic_ns() > self.latest_end_ns():
                self.reasons.append("workers did not end in time and were killed")
                workers.kill()
        if view is not None:
            view.update(self.control.counters, None)

    def stop(self, *, killing: bool) -> None:
        assert self.workers is not None
        self.interrupted = True
        if killing:
            self.workers.kill()
            return
        self.stop_offering("interrupted")

    def stop_offering(self, reason: str) -> None:
        """Nothing more is sent; what is in flight has STOP_S."""
        assert self.workers is not None
        self.reasons.append(reason)
        self.control.control["stop"][0] = 1
        self.workers.drain(time.monotonic_ns() + round(STOP_S * NS))
        self.stop_by_ns = time.monotonic_ns() + round((STOP_S + OVERTIME_S) * NS)

    stop_by_ns = FOREVER_NS

    def latest_end_ns(self) -> int:
        """When even a slow worker must be over; far away while the plan's end is not known."""
        load, schedule = self.config.load, self.plan.schedule
        last = schedule.duration_ns
        if last is None and self.plan.finished and not schedule.closed and not self.plan.turns_follow:
            last = self.plan.last_due_ns
        if last is None:
            return self.stop_by_ns
        return min(self.stop_by_ns, self.start_ns + last + round((load.drain + OVERTIME_S) * NS))

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += 1

    def live_view(self) -> LiveView:
        span = self.plan.schedule.expected_span_s
        if span is None and self.plan.finished and not self.plan.schedule.closed:
            span = self.plan.last_due_ns / NS
        where = ", ".join(one.url for one in self.prepared.targets)
        title = f"{self.plan.schedule.describe()} → {where}"
        return LiveView(self.live_histograms(), title, span)

    def live_histograms(self) -> LiveHistograms:
        return LiveHistograms(self.directory, self.count, len(self.plan.classes))

    def give_up(self) -> None:
        """After an exception: no load may go on, no process may stay."""
        if self.workers is not None:
            self.workers.kill()
            with contextlib.suppress(OSError, ValueError):
                self.workers.close()
        self.telemetry.stop()
        shutil.rmtree(self.plan_dir, ignore_errors=True)
        if self.start_ns < 0:
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- after the load -----------------------------------------------------------------------------------------------

    def window_ns(self) -> tuple[int, int]:
        """The measured window, relative to the start."""
        load, span = self.config.load, self.span_ns()
        start, end = cut_ns(load.warmup, span), FOREVER_NS
        turns_follow = self.plan.turns_follow and load.duration is None and not load.cooldown
        if span is not None and not turns_follow:
            end = max(start, span - cut_ns(load.cooldown, span))
        return start, end

    def span_ns(self) -> int | None:
        """Length of the offered schedule: what is asked, else what is planned; None while only the run can tell."""
        schedule = self.plan.schedule
        if schedule.at_once:
            return None
        if schedule.duration_ns is not None and not schedule.trace:
            return schedule.duration_ns
        if self.plan.finished and not schedule.closed:
            return self.plan.last_due_ns + 1  # the window includes the last due time
        if schedule.expected_span_s is not None and math.isfinite(schedule.expected_span_s):
            return round(schedule.expected_span_s * NS)
        return None

    def first_info(self) -> dict[str, Any]:
        """run.json as far as it is known before the load."""
        config = self.config
        return {
            "schema": "llmgen.run/1",
            "run_id": self.run_id,
            "name": config.name,
            "tags": config.tags,
            "note": config.note,
            "state": "running",
            "reasons": [],
            "config": redact(config),
            "model": self.prepared.model,
            "classes": [{"name": k.name, "slo": list(k.slo), "stream": k.stream} for k in self.plan.classes],
            "targets": [{"url": one.url} for one in self.prepared.targets],
            "workers": self.count,
            "seed": config.seed,
            "start_ns": -1,
            "end_ns": -1,
            "start_realtime_ns": -1,
            "window": {"start_ns": None, "end_ns": None},
            "schedule": {"scheduled": None, "span_ns": None, "arrival": self.plan.schedule.describe()},
            "environment": machine.environment(),
            "versions": machine.versions(),
            "server": [
                {"url": one.url, "protocol": seen.protocol, "models": seen.models[:50], **seen.facts}
                for one, seen in zip(self.prepared.targets, self.prepared.looks, strict=True)
            ],
            "insecure": config.target.insecure,
            "clock": {},
            "workers_detail": [],
        }

    def conclude(self) -> Result:
        """Merges the records, judges, writes the report."""
        assert self.workers is not None
        self.reasons += self.workers.failures
        if self.workers.disk_full():
            self.reasons.append("the disk is full: what came later is not recorded")
        unsent, scheduled = self.unsent()
        self.complete_info(scheduled)
        with contextlib.suppress(OSError):
            rundir.gather_errors(self.directory, targets_of.secrets(self.prepared.headers))
        if self.config.keep_bodies:
            with contextlib.suppress(OSError):
                self.plan_dir.rename(self.directory / "bodies")
        else:
            shutil.rmtree(self.plan_dir, ignore_errors=True)
        (self.directory / "control.bin").unlink(missing_ok=True)
        self.try_write("run.json", lambda: rundir.write_json(self.directory / "run.json", self.info))
        self.try_write("telemetry.npz", self.telemetry.finish)
        said = len(self.reasons)
        self.try_write("the merged records", lambda: self.merge(unsent))
        if len(self.reasons) > said:
            self.info["state"] = "incomplete"
            self.try_write("run.json", lambda: rundir.write_json(self.directory / "run.json", self.info))
        for worker_log in self.directory.glob("worker-*.log"):
            if worker_log.stat().st_size == 0:
                worker_log.unlink()
        finished = open_run(self.directory)
        finished.info = self.info
        finished.map_all()
        summary = summarise(finished)
        self.try_write("summary.json", lambda: write_summary(self.directory, summary))
        self.try_write("report.html", lambda: html.write_html(finished, summary))
        return Result(self.directory, summary, exit_code(summary, interrupted=self.interrupted), finished)

    def merge(self, unsent: np.ndarray) -> None:
        try:
            notes = merge(self.directory, self.info, unsent)
        except OSError:
            np.save(self.directory / NEVER_SENT, unsent)  # for those who read the raw records
            raise
        for note in notes:
            log.warning(note)
            self.reasons.append(note)

    def try_write(self, what: str, write: Callable[[], object]) -> None:
        """A full disk takes a file, not the run: what is recorded stays, and the report says what is missing."""
        try:
            write()
        except OSError as error:
            reason = f"{what} could not be written: {error.strerror or error}"
            log.error(reason)
            self.reasons.append(reason)
            self.info["state"] = "incomplete"
            self.info["reasons"] = self.reasons

    def unsent(self) -> tuple[np.ndarray, int]:
        return unsent(
            self.plan_dir,
            taken_up(self.directory, self.plan.rows_written),
            self.start_ns,
            balanced=len(self.prepared.targets) > 1,
            closed=self.closed_by(),
            claimed=int(self.control.control["claimed"][0]),
        )

    def closed_by(self) -> str | None:
        """What the slots of a closed loop claim."""
        if not self.plan.schedule.closed:
            return None
        return "index" if self.config.workload.sessions is None else "session"

    def complete_info(self, scheduled: int) -> None:
        info, closed = self.info, self.plan.schedule.closed
        start, end = self.window_ns()
        span = self.span_ns()
        if closed and span is None:
            span = self.end_ns - self.start_ns
            end = span - cut_ns(self.config.load.cooldown, span)
        stolen, ticks = machine.cpu_times()
        passed = ticks - self.steal[1]
        info.update(
            state="incomplete" if self.reasons else "complete",
            reasons=self.reasons,
            end_ns=self.end_ns,
            end_realtime_ns=self.start_realtime_ns + self.end_ns - self.start_ns,
            window={"start_ns": self.start_ns + start, "end_ns": self.start_ns + end},
            schedule={
                "scheduled": scheduled,
                "span_ns": span,
                "arrival": self.plan.schedule.describe(),
                "offered_rate": scheduled * NS / span if span else None,
            },
            clock={
                "steps": sum(int(row.get("clock_steps", 0)) for row in self.worker_details),
                "steal_pct": round(100 * (stolen - self.steal[0]) / passed, 2) if passed > 0 else None,
            },
            workers_detail=self.worker_details,
        )


def cut_ns(cut: float | str, span_ns: int | None) -> int:
    """Warm-up or cool-down: seconds, or percent of the span (0 while that is not known)."""
    if isinstance(cut, str):
        return round(float(cut.rstrip("% ")) / 100 * (span_ns or 0))
    return round(cut * NS)


@contextlib.contextmanager
def interrupts(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler`; in a thread other than the main one they stay where they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
