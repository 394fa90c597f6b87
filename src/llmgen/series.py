"""A series of runs in one directory that can be resumed: planned beforehand (suite.py), or decided as it goes.

    OUT/<utc>-<name>/suite.json      what is planned, what has run, what it shows; rewritten after every run
    OUT/<utc>-<name>/0001 …          the runs, numbered in their turn; where one broke, the next try is 0001-2

A search or a test strategy is an ordinary function from a configuration and a `Series` to a conclusion:

    with opened(config, "search") as series:
        taken = series.run("rate 20", config_at(20), rate=20)
        series.conclude({"capacity": …})

Resuming is calling it again: `Series.run` is memoised, so the function sees the runs that are complete as if they had
just been made and goes on where it was. It must therefore decide by nothing but its configuration and the runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgen import rundir
from llmgen.abort import STOPPED
from llmgen.config import RunConfig, redact
from llmgen.errors import ConfigError, LlmgenError, RecordError, TargetError, WorkerError
from llmgen.logs import log, set_up_log
from llmgen.metrics.factors import Effect, Streamed, figures
from llmgen.metrics.figures import Summary
from llmgen.metrics.summary import read_summary
from llmgen.records import Run, open_run, read_info
from llmgen.run import run
from llmgen.validation import complete, validate

if TYPE_CHECKING:
    from llmgen.run import Result

SCHEMA: Final = "llmgen.suite/1"
FILE: Final = "suite.json"
MATRIX: Final = "matrix"
INTERRUPTED: Final = 130
# docs/contract.md's exit codes: the first that any run has is the suite's.
WORST_FIRST: Final = (130, 5, 4, 3)
MOST_TRIES: Final = 3  # of a run of a series that ends incomplete: a cause that stays is not mended by more
ABSENCE_S: Final = 120.0  # so long a series waits for a server that has been there: a restart with a model's load
KNOCK_S: Final = 2.0


class Interrupted(LlmgenError):
    """A run was interrupted; `taken` is what it brought until then, `series` where it lies."""

    exit_code = INTERRUPTED

    def __init__(self, taken: Taken) -> None:
        super().__init__("interrupted")
        self.taken = taken


class SuiteCell(msgspec.Struct, kw_only=True):
    cell: int
    levels: dict[str, str]


class SuiteRun(msgspec.Struct, kw_only=True):
    """One run of a suite. state: planned, running, complete, or incomplete (broken off: to be repeated).

    label, rate, fingerprint: of a series: what the run is for, the rate it offers, its configuration. stopped: the
    rule that ended it, which is a result. waited_s: so long the server was away before it began.
    """

    number: int  # its turn, from 1
    cell: int = 0
    repeat: int = 0
    seed: int
    label: str = ""
    rate: float | None = None
    fingerprint: str = ""
    state: str = "planned"
    directory: str | None = None  # of its last try, beside suite.json
    tries: int = 0
    verdict: str | None = None
    exit_code: int | None = None
    stopped: str | None = None
    waited_s: float | None = None
    figures: dict[str, float | None] = {}


class Suite(msgspec.Struct, kw_only=True):
    """suite.json. state: running, complete or incomplete. kind: matrix, search, test-load, …

    parameters: what else a series was asked for, beside its configuration. outcome, conclusion: what it shows.
    """

    schema: str = SCHEMA
    kind: str = MATRIX
    name: str
    state: str = "running"
    fingerprint: str  # of the configuration: only the same one is resumed
    config: dict[str, Any]  # redacted, with its matrix
    parameters: dict[str, Any] = {}
    factors: dict[str, list[str]] = {}
    repeat: int = 1
    cells: list[SuiteCell] = []
    runs: list[SuiteRun] = []
    effects: list[Effect] = []
    streamed: list[Streamed] = []
    outcome: str | None = None
    conclusion: dict[str, Any] | None = None

    @property
    def done(self) -> int:
        return sum(one.state == "complete" for one in self.runs)

    @property
    def exit_code(self) -> int:
        codes = {one.exit_code for one in self.runs}
        return next((code for code in WORST_FIRST if code in codes), 0)


# -- the directory -----------------------------------------------------------------------------------------------------


def read_suite(directory: Path) -> Suite:
    """suite.json of a directory. RecordError if there is none, or not one that this version reads."""
    path = directory / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Suite)
    except (OSError, msgspec.MsgspecError) as error:
        raise RecordError(f"{path}: cannot be read: {error}") from None


def write_suite(directory: Path, suite: Suite) -> None:
    rundir.write_json(directory / FILE, msgspec.to_builtins(suite))


def fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def resumed(out: str, fresh: Suite) -> Iterator[tuple[Path, Suite]]:
    """The suite to go on with, or `fresh` in a new directory; locked, so that no second process runs the same."""
    directory = _unfinished(out, fresh)
    suite = fresh if directory is None else read_suite(directory)
    if directory is None:
        directory = rundir.make(out, fresh.name)
        write_suite(directory, fresh)
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{directory}: this suite is being run by another process; use another --name") from None
        for one in suite.runs:
            if one.state != "complete":
                one.state, one.exit_code = "planned", None
        suite.state = "running"
        rundir.point_latest(directory)
        yield directory, suite
    finally:
        os.close(lock)


def in_use(directory: Path) -> bool:
    """Whether a process runs the suite in this directory."""
    try:
        with (directory / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _unfinished(out: str, fresh: Suite) -> Path | None:
    """The newest suite in out of the same kind and name that is not complete; None if it was configured otherwise."""
    for path in sorted(Path(out).glob(f"*/{FILE}"), reverse=True):
        try:
            found = read_suite(path.parent)
        except RecordError:
            continue
        same = (found.name, found.kind) == (fresh.name, fresh.kind)
        if not same or found.state == "complete" or path.parent.is_symlink():
            continue
        if found.fingerprint == fresh.fingerprint:
            return path.parent
        log.info("%s is not complete, but was configured otherwise: a new one begins", path.parent)
        return None
    return None


# -- one run -----------------------------------------------------------------------------------------------------------


def take(directory: Path, suite: Suite, one: SuiteRun, config: RunConfig, label: str, **settings: Any) -> Result:
    """The next try of a run, with its place, name and seed laid over `config`; suite.json tells before and after."""
    one.tries += 1
    while (directory / _place(one)).exists():  # left by a series that went another way
        one.tries += 1
    one.state, one.directory = "running", _place(one)
    write_suite(directory, suite)
    config = msgspec.structs.replace(
        config, name=f"{suite.name}-{one.directory}", seed=one.seed, out=str(directory), matrix={}, repeat=None
    )
    total = f" of {len(suite.runs)}" if suite.kind == MATRIX else ""
    log.info("run %d%s: %s", one.number, total, label)
    try:
        result = run(config, directory=directory / one.directory, **settings)
    except BaseException:
        one.state = "incomplete"
        raise
    one.exit_code, one.verdict = result.exit_code, result.summary.verdict.status
    one.stopped = _rule_that_stopped(result)
    one.figures = figures(result.summary)
    one.state = "incomplete" if one.verdict == "incomplete" and one.stopped is None else "complete"
    write_suite(directory, suite)
    log.info("run %d: %s", one.number, _line(result.summary))
    return result


def _place(one: SuiteRun) -> str:
    return f"{one.number:04d}" + (f"-{one.tries}" if one.tries > 1 else "")


def _rule_that_stopped(result: Result) -> str | None:
    """The stop rule that ended a run, if that was all that ended it early."""
    # why it ended early; the verdict has others, too
    reasons = [str(reason) for reason in read_info(result.directory).get("reasons") or []]
    if len(reasons) != 1 or result.exit_code == INTERRUPTED:
        return None
    return reasons[0].removeprefix(STOPPED) if reasons[0].startswith(STOPPED) else None


def _line(summary: Summary) -> str:
    ttft = summary.latency.ttft_from_due_ms
    told = f", TTFT from due p50 {ttft.p50:.1f} ms" if ttft is not None else ""
    return f"{summary.verdict.status}, {summary.requests.succeeded} of {summary.requests.scheduled} succeeded{told}"


def shows_progress(progress: bool | None, quiet: bool, json_out: bool) -> bool:
    return not quiet and not json_out if progress is None else progress


# -- decided as it goes ------------------------------------------------------------------------------------------------


@dataclass
class Taken:
    """A run of a series. `step.stopped`: the rule that ended it early, if one did."""

    step: SuiteRun
    directory: Path
    summary: Summary
    exit_code: int

    def open(self) -> Run:
        return open_run(self.directory)


@dataclass
class Series:
    """Runs decided as it goes. `suite.json` tells them, and what they show."""

    directory: Path
    suite: Suite
    _settings: dict[str, bool] = field(repr=False)
    _turn: int = 0

    def run(self, label: str, config: RunConfig, *, rate: float | None = None, tries: int = MOST_TRIES) -> Taken:
        """The next run: read from disk if it is there and complete, otherwise offered.

        A run that ends incomplete (a worker died, the disk was full) is offered `tries` times and then returned as
        it is. A server that has been there is waited for. Interrupted: the user ended it. Other errors are run.run's.
        """
        self._turn += 1
        mark = fingerprint({**redact(config), "name": None, "out": None})
        found = self._found(label, mark)
        if found is not None:
            return found
        del self.suite.runs[self._turn - 1 :]
        one = SuiteRun(number=self._turn, seed=config.seed, label=label, rate=rate, fingerprint=mark)
        self.suite.runs.append(one)
        for chance in range(tries):
            try:
                result = self._patiently(one, config)
            except WorkerError as error:
                if chance == tries - 1:
                    raise
                log.warning("run %d is tried again: %s", one.number, error)
                continue
            assert one.directory is not None
            taken = Taken(one, self.directory / one.directory, result.summary, result.exit_code)
            if result.exit_code == INTERRUPTED:
                raise Interrupted(taken)
            if one.state == "complete":
                break
        return taken

    def _found(self, label: str, mark: str) -> Taken | None:
        """The run of this turn, if it is complete and was the same."""
        if self._turn > len(self.suite.runs):
            return None
        one = self.suite.runs[self._turn - 1]
        if one.state != "complete" or one.directory is None or (one.label, one.fingerprint) != (label, mark):
            return None
        path = self.directory / one.directory
        try:
            return Taken(one, path, read_summary(path), one.exit_code or 0)
        except LlmgenError as error:
            log.warning("run %d is made again: %s", one.number, error)
            return None

    def _patiently(self, one: SuiteRun, config: RunConfig) -> Result:
        """One try. A target that answered an earlier run and cannot be reached now may be restarting: ABSENCE_S."""
        began = time.monotonic()
        while True:
            try:
                result = take(self.directory, self.suite, one, config, one.label, **self._settings)
            except TargetError as error:
                waited = time.monotonic() - began
                if not any(other.state == "complete" for other in self.suite.runs[: self._turn - 1]):
                    raise
                if waited > ABSENCE_S:
                    raise TargetError(f"{error}; it answered before, and was awaited for {waited:.0f} s") from None
                if one.waited_s is None:
                    log.warning("%s; it answered before, so it is awaited for %g s", error, ABSENCE_S)
                one.waited_s = waited
                time.sleep(KNOCK_S)
                continue
            return result

    def conclude(self, conclusion: Mapping[str, Any] | msgspec.Struct, outcome: str | None = None) -> None:
        """What the runs show so far, into suite.json; `outcome` in a word, for `llmgen list`."""
        self.suite.conclusion = msgspec.to_builtins(conclusion)
        self.suite.outcome = outcome
        write_suite(self.directory, self.suite)


@contextmanager
def opened(
    config: RunConfig,
    kind: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    quiet: bool = False,
    json_out: bool = False,
    log_json: bool = False,
) -> Iterator[Series]:
    """The series of this kind, configuration and parameters that is not complete, or a new one.

    Left without an exception it is complete; with one it is incomplete, and started again goes on there.
    """
    set_up_log(log_json, quiet)
    if config.matrix or (config.repeat or 1) > 1:
        raise ConfigError("matrix, repeat: are for a suite (llmgen run); this command decides itself what to run")
    validate(complete(config)[0])
    shown, asked = redact(config), dict(parameters or {})
    fresh = Suite(
        kind=kind, name=config.name or kind, fingerprint=fingerprint(shown, asked), config=shown, parameters=asked
    )
    with resumed(config.out, fresh) as (directory, suite):
        log.info("%s in %s", kind, directory)
        if suite.done:
            log.info("resumed: %d runs are there", suite.done)
        settings = {"progress": shows_progress(progress, quiet, json_out), "quiet": quiet, "log_json": log_json}
        try:
            yield Series(directory, suite, settings)
            suite.state = "complete"
        except BaseException:
            suite.state = "incomplete"
            raise
        finally:
            write_suite(directory, suite)


def with_figures(directory: Path, suite: Suite, read: Callable[[Path], Summary] = read_summary) -> Suite:
    """The suite with its figures read again from its runs; one that cannot be read is incomplete."""
    for one in suite.runs:
        if one.state == "complete" and one.directory is not None:
            try:
                one.figures = figures(read(directory / one.directory))
            except LlmgenError as error:
                log.warning("run %d is left out: %s", one.number, error)
                one.state = "incomplete"
    return suite
