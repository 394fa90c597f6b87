"""One run from start to finish: the file to read first.

    configuration → look at the target → plan → workers ready → common start → watch → merge → summary and report

This process, the controller, sends nothing itself during the load. It writes the plan a little ahead, reads the workers'
counters, and alone handles interrupts. Every wait is bounded: a run always ends with a report.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np

from llmgen import machine, preflight, rundir, target as targets_of, workers as processes
from llmgen.abort import AbortWatch, parse as parse_abort
from llmgen.columns import REQUEST_DTYPE, Status
from llmgen.config import RunConfig, redact
from llmgen.control import ControlBlock
from llmgen.credentials import resolve_headers, resolve_value
from llmgen.errors import ConfigError, LlmgenError, WorkerError
from llmgen.live import LiveView
from llmgen.metrics.summary import Summary, summarise, write_summary
from llmgen.metrics.verdict import exit_code
from llmgen.plan import PlanReader
from llmgen.planning import PlanBuilder
from llmgen.records import Run, merge, open_run
from llmgen.report import html
from llmgen.target import Target
from llmgen.tls import make_context
from llmgen.validation import complete, validate
from llmgen.worker import HeadSetup, Setup, Start, TargetSetup, TlsSetup

NS: Final = 1_000_000_000
FOREVER_NS: Final = 1 << 61
START_DELAY_S: Final = 0.3  # from "go" to the common start: every worker has read it by then
AHEAD_S: Final = 30.0  # the plan is written so far ahead of the clock
AHEAD_ROWS: Final = 65_536  # or, in a closed loop, so far ahead of what is claimed
LOOK_S: Final = 0.1
STOP_S: Final = 5.0  # after an interrupt: so long may what is in flight take
OVERTIME_S: Final = 15.0  # beyond the drain: workers that still run are killed
# One worker's core carries about so much; auto picks workers for 70 % of it (see benchmarks/README.md).
EVENT_COST_S: Final = 12e-6
REQUEST_COST_S: Final = 150e-6
SHARE: Final = 0.7

log = logging.getLogger("llmgen")


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
) -> Result:
    """Offers the load, records, reports.

    progress: the live view; None: if standard error is a terminal. Raises ConfigError and TargetError before any load is
    sent, WorkerError if no worker could start; everything later is in the result.
    """
    set_up_log(log_json, quiet)
    config, notes = complete(config)
    validate(config)
    rule = parse_abort(config.client.abort_on) if config.client.abort_on else None
    for note in notes:
        log.info(note)
    warn_of_proxies()
    headers = request_headers(config)
    prepared = prepare(config, headers)
    directory = rundir.make(config.out, config.name)
    controller = Controller(config, prepared, directory, rule)
    show = not quiet and not json_out if progress is None else progress
    try:
        controller.load(show and (progress is True or sys.stderr.isatty() or not log_json))
    except BaseException:
        controller.give_up()
        raise
    return controller.conclude()


# -- before the load ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """What is known of the targets before the load."""

    headers: dict[str, str]
    targets: list[Target]
    looks: list[preflight.Look]
    model: str | None


def set_up_log(as_json: bool, quiet: bool) -> None:
    handler = logging.StreamHandler()
    if as_json:
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("llmgen: %(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet and not as_json else logging.INFO)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, and what was given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)), "level": record.levelname.lower()}
        return json.dumps({**row, "message": record.getMessage(), **getattr(record, "fields", {})})


def warn_of_proxies() -> None:
    found = [name for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") if os.environ.get(name)]
    if found:
        log.info("%s ignored: load goes straight to the target", ", ".join(found))


def request_headers(config: RunConfig) -> dict[str, str]:
    """The user's headers with their secrets, for the control pipe only."""
    headers = resolve_headers(config.target)
    command = config.target.api_key_command
    if command is None:
        return headers
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30, check=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(f"target.api_key_command: {shlex.split(command)[0]!r} failed: {type(error).__name__}") from None
    key = done.stdout.strip()
    if not key:
        raise ConfigError("target.api_key_command: printed nothing; it must print the key")
    headers["authorization"] = resolve_value("target.api_key_command", f"Bearer {key}")
    return headers


def prepare(config: RunConfig, headers: dict[str, str]) -> Prepared:
    """Resolves the names and looks at every target. TargetError, ConfigError."""
    targets = targets_of.resolve(config.target)
    paths = endpoint_paths(config)
    looks = []
    for one, path in zip(targets, paths, strict=True):
        context = None
        if one.secure:
            t = config.target
            wanted = {"1.1": ["http/1.1"], "2": ["h2"]}.get(t.http, ["h2", "http/1.1"])
            context = make_context(insecure=t.insecure, ca=t.ca, cert=t.cert, key=t.key, alpn=wanted)
        seen = preflight.look(one, config, path, headers, context)
        for note in seen.notes:
            log.info(note)
        looks.append(seen)
    wanted_models = models_wanted(config)
    for one, seen in zip(targets, looks, strict=True):
        preflight.check_models(wanted_models, seen, one)
    model = config.target.model
    if model is None and looks[0].models:
        model = looks[0].models[0]
        log.info("model: %s (the first that the target lists)", model)
    return Prepared(headers, targets, looks, model)


def endpoint_paths(config: RunConfig) -> list[str]:
    """The endpoint's path on every target."""
    from llmgen import dialects, planning

    return list(planning.endpoint_paths(config, dialects.get(config.target.api)))


def models_wanted(config: RunConfig) -> list[str]:
    from llmgen.workload.mix import parse_models

    texts = [("target.model", config.target.model)]
    texts += [(f"workload.mix.{name}.model", klass.model) for name, klass in config.workload.mix.items()]
    return sorted({m for key, text in texts if text for m in parse_models(text, key)[0] if m is not None})


# -- the load -------------------------------------------------------------------------------------------------------------


class Controller:
    """The state of one run between its configuration and its report."""

    def __init__(self, config: RunConfig, prepared: Prepared, directory: Path, rule: Any) -> None:
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
        rundir.point_latest(directory)
        self.control = ControlBlock(directory / "control.bin", self.count)
        self.workers: processes.Workers | None = None

    # -- plan ---------------------------------------------------------------------------------------------------------

    def make_plan(self) -> PlanBuilder:
        """The plan's first segments, for as many workers as its load needs."""
        self.count = self.config.client.workers or 1
        plan = PlanBuilder(self.config, self.plan_dir, self.count, self.prepared.model)
        plan.write_next()
        if self.config.client.workers is None:
            wanted = self.workers_needed(plan)
            if wanted > 1:
                shutil.rmtree(self.plan_dir)
                self.count = wanted
                plan = PlanBuilder(self.config, self.plan_dir, wanted, self.prepared.model)
                plan.write_next()
        if plan.schedule.trace:
            plan.write_all()  # a broken row is found before anything is sent
        if plan.schedule.closed and self.config.load.concurrency is not None:
            self.count = min(self.count, self.config.load.concurrency)
        return plan

    def workers_needed(self, plan: PlanBuilder) -> int:
        """As few as the planned events need, within the cores that may be used; one core is left to this process."""
        rows = max(1, plan.rows_written)
        events = plan.planned_output / rows
        schedule = plan.schedule
        if schedule.closed:
            # each slot is as fast as the server; 50 events/s is a usual stream
            rate = (self.config.load.concurrency or 1) * 50 / max(1.0, events)
        elif schedule.curve is not None:
            rate = schedule.curve.peak
        elif plan.last_due_ns:
            rate = rows / (plan.last_due_ns / NS)
        else:
            rate = rows / 1.0
        share = rate * (events * EVENT_COST_S + REQUEST_COST_S)
        wanted = math.ceil(share / SHARE)
        return max(1, min(wanted, machine.usable_cores() - 1))

    def plan_ahead(self) -> None:
        """Keeps the plan ahead of the clock, and tells the workers of it."""
        plan, control = self.plan, self.control.control
        while not plan.finished and self.plan_is_short():
            plan.write_next()
            control["plan_segments"][0] = plan.segments
        control["plan_segments"][0] = plan.segments
        control["plan_final"][0] = int(plan.finished)

    def plan_is_short(self) -> bool:
        if self.interrupts:
            return False
        if self.plan.schedule.closed:
            return self.plan.rows_written - int(self.control.control["claimed"][0]) < AHEAD_ROWS
        elapsed = 0.0 if self.start_ns < 0 else (time.monotonic_ns() - self.start_ns) / NS
        return self.plan.last_due_ns / NS < elapsed + AHEAD_S

    # -- workers ------------------------------------------------------------------------------------------------------

    def cores(self) -> list[int | None]:
        """A core of its own for every worker, from the last downwards; none if there are not enough."""
        cores = machine.affinity()
        if not self.config.client.pin or self.count > len(cores) or len(cores) == 1:
            return [None] * self.count
        return list(reversed(cores))[: self.count]

    def setups(self) -> list[Setup]:
        config, client = self.config, self.config.client
        extra = self.prepared.headers
        targets = []
        for number, (one, seen) in enumerate(zip(self.prepared.targets, self.prepared.looks, strict=True)):
            heads = targets_of.heads(one, number, seen.protocol, self.plan.heads, extra, self.run_id)
            targets.append(TargetSetup(list(one.addresses), seen.protocol, one.secure, heads, one.host))
        t = config.target
        slots = split(config.load.concurrency or 0, self.count) if self.plan.schedule.closed else [0] * self.count
        limits = split(client.connections, self.count) if client.connections else [0] * self.count
        ready = split(client.preconnect, self.count)
        heads_setup = [
            HeadSetup(head.stream, bool(self.plan.dialect.end), self.plan.dialect.scanner) for head in self.plan.heads
        ]
        return [
            Setup(
                worker=number,
                directory=str(self.directory / f"worker-{number}"),
                plan=str(self.plan_dir),
                control=str(self.directory / "control.bin"),
                run_id=self.run_id,
                seed=config.seed,
                trace_prefix=int(self.run_id, 16),
                classes=len(self.plan.classes),
                heads=heads_setup,
                targets=targets,
                tls=TlsSetup(t.insecure, t.ca, t.cert, t.key) if any(one.secure for one in targets) else None,
                record_events=config.record == "events",
                core=core,
                timeout_connect=round(client.timeouts.connect * NS),
                timeout_first_token=round(client.timeouts.first_token * NS),
                timeout_idle=round(client.timeouts.idle * NS),
                timeout_total=round(client.timeouts.total * NS),
                drain=round(config.load.drain * NS),
                spin=round(client.spin * NS),
                connections=limits[number],
                streams_per_connection=client.streams_per_connection or 0,
                preconnect=ready[number],
                closed_slots=slots[number],
                balance=t.balance,
                kernel_stamps=client.stamps == "kernel",
                traceparent=client.traceparent,
                http2_engine=client.http2_engine,
                keep_bodies=config.keep_bodies,
            )
            for number, core in enumerate(self.cores())
        ]

    def check_limits(self) -> None:
        """Descriptors and ports against what the plan may need at the most, as far as that is known."""
        limit = machine.raise_descriptor_limit()
        wanted = self.config.client.connections or self.config.load.concurrency
        if wanted is None:
            return
        if all(seen.protocol == 1 for seen in self.prepared.looks) and wanted / self.count + machine.SPARE_DESCRIPTORS > limit:
            raise ConfigError(
                f"{wanted} connections need {math.ceil(wanted / self.count) + machine.SPARE_DESCRIPTORS} file descriptors a "
                f"worker, the limit is {limit}; raise it with ulimit -n, or use more workers or --http 2"
            )
        addresses = sum(len([a for a in one.addresses if a[0] != "unix"]) for one in self.prepared.targets)
        ports = machine.ephemeral_ports() * addresses
        if addresses and wanted > ports:
            raise ConfigError(
                f"{wanted} connections to {addresses} address{'es' if addresses > 1 else ''} need more than the {ports} local "
                "ports there are; widen net.ipv4.ip_local_port_range, name further addresses of the target, or use --http 2"
            )

    def load(self, show: bool) -> None:
        """Starts the workers, gives the common start, watches until all are over."""
        self.check_limits()
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
        self.info.update(start_ns=self.start_ns, start_realtime_ns=self.start_realtime_ns)
        rundir.write_json(self.directory / "run.json", self.info)

    def watch_over(self, view: LiveView | None) -> None:
        """Until every worker has said that it is done, has died, or its time is over."""
        assert self.workers is not None
        workers, told = self.workers, 0
        while not workers.over:
            self.plan_ahead()
            workers.wait(LOOK_S)
            if self.interrupts > told:
                told = self.interrupts
                self.stop(killing=told > 1)
            if view is not None:
                planned = self.plan.rows_written if self.plan.finished else None
                view.update(self.control.counters, planned, "stopping" if self.interrupts else "")
            reason = None if self.interrupts or self.reasons else self.watch.look(self.control.counters)
            if reason is not None:
                self.reasons.append(f"stopped by itself: {reason}")
                self.control.control["stop"][0] = 1
                workers.drain(time.monotonic_ns() + round(STOP_S * NS))
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
        self.reasons.append("interrupted")
        self.control.control["stop"][0] = 1
        self.workers.drain(time.monotonic_ns() + round(STOP_S * NS))
        self.stop_by_ns = time.monotonic_ns() + round((STOP_S + OVERTIME_S) * NS)

    stop_by_ns = FOREVER_NS

    def latest_end_ns(self) -> int:
        """When even a slow worker must be over; far away while the plan's end is not known."""
        load, schedule = self.config.load, self.plan.schedule
        last = schedule.duration_ns
        if last is None and self.plan.finished and not schedule.closed:
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
        return LiveView(self.directory, self.count, len(self.plan.classes), title, span)

    def give_up(self) -> None:
        """After an exception: no load may go on, no process may stay."""
        if self.workers is not None:
            self.workers.kill()
            with contextlib.suppress(OSError, ValueError):
                self.workers.close()
        shutil.rmtree(self.plan_dir, ignore_errors=True)
        if self.start_ns < 0:
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- after the load -----------------------------------------------------------------------------------------------

    def window_ns(self) -> tuple[int, int]:
        """The measured window, relative to the start."""
        load = self.config.load
        span = self.span_ns()
        start = cut_ns(load.warmup, span)
        end = FOREVER_NS if span is None else max(start, span - cut_ns(load.cooldown, span))
        return start, end

    def span_ns(self) -> int | None:
        """Length of the offered schedule: what is asked, else what is planned; None while only the run can tell."""
        schedule = self.plan.schedule
        if schedule.at_once:
            return None
        if schedule.duration_ns is not None and not schedule.trace:
            return schedule.duration_ns
        if self.plan.finished and not schedule.closed:
            # one more than the last due time: the window includes it
            return self.plan.last_due_ns + 1
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
        unsent = self.unsent()
        self.complete_info(unsent)
        with contextlib.suppress(OSError):
            rundir.gather_errors(self.directory, targets_of.secrets(self.prepared.headers))
        if self.config.keep_bodies:
            with contextlib.suppress(OSError):
                self.plan_dir.rename(self.directory / "bodies")
                rundir.hide_secrets(self.directory, targets_of.secrets(self.prepared.headers))
        else:
            shutil.rmtree(self.plan_dir, ignore_errors=True)
        (self.directory / "control.bin").unlink(missing_ok=True)
        self.try_write("run.json", lambda: rundir.write_json(self.directory / "run.json", self.info))
        self.try_write("the merged records", lambda: self.merge(unsent))
        for worker_log in self.directory.glob("worker-*.log"):
            if worker_log.stat().st_size == 0:
                worker_log.unlink()
        finished = open_run(self.directory)
        finished.map_all()
        summary = summarise(finished)
        self.try_write("summary.json", lambda: write_summary(self.directory, summary))
        self.try_write("report.html", lambda: html.write_html(finished, summary))
        return Result(self.directory, summary, exit_code(summary, interrupted=self.interrupted), finished)

    def merge(self, unsent: np.ndarray) -> None:
        for note in merge(self.directory, self.info, unsent):
            log.warning(note)
            self.reasons.append(note)

    def try_write(self, what: str, write: Any) -> None:
        """A full disk takes a file, not the run: what is recorded stays, and the report says what is missing."""
        try:
            write()
        except OSError as error:
            reason = f"{what} could not be written: {error.strerror or error}"
            log.error(reason)
            self.reasons.append(reason)
            self.info["state"] = "incomplete"
            self.info["reasons"] = self.reasons

    def unsent(self) -> np.ndarray:
        """A row for every planned request, status never_sent; merge drops those that a worker took up.

        Closed loop: only what was claimed was scheduled.
        """
        rows = PlanReader(self.plan_dir).all_rows()
        if self.plan.schedule.closed:
            rows = rows[: int(self.control.control["claimed"][0])]
            rows = rows[rows["index"] < 0]  # claimed is taken up at once: never planned and left
        blank = np.zeros(len(rows), REQUEST_DTYPE)
        for name in REQUEST_DTYPE.names or ():
            if blank.dtype[name].kind == "i":
                blank[name] = -1
        for name in ("index", "klass", "target", "worker", "session", "turn", "planned_input", "planned_output"):
            blank[name] = rows[name]
        if len(self.prepared.targets) > 1:
            blank["target"] = 0
        blank["due"] = rows["due"] + self.start_ns
        blank["status"] = Status.never_sent
        blank["body_bytes"] = rows["body_bytes"]
        return blank

    def complete_info(self, unsent: np.ndarray) -> None:
        info, closed = self.info, self.plan.schedule.closed
        start, end = self.window_ns()
        span = self.span_ns()
        scheduled = len(unsent)
        if closed:
            scheduled = int(self.control.counters["dispatched"].sum())
            if span is None:
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


def split(total: int | None, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most."""
    whole, rest = divmod(total or 0, parts)
    return [whole + (number < rest) for number in range(parts)]


def cut_ns(cut: float | str, span_ns: int | None) -> int:
    """Warm-up or cool-down: seconds, or percent of the span (0 while that is not known)."""
    if isinstance(cut, str):
        return round(float(cut.rstrip("% ")) / 100 * (span_ns or 0))
    return round(cut * NS)


@contextlib.contextmanager
def interrupts(handler: Any) -> Iterator[None]:
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
