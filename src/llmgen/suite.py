"""A suite: the cells of a matrix run one after the other, each several times, in one directory that can be resumed.

    OUT/<utc>-<name>/suite.json      what is planned, what has run, what it shows; rewritten after every run
    OUT/<utc>-<name>/0001 …          the runs, numbered in their turn; where one broke, the next try is 0001-2

Starting a suite again with the same configuration, out and name resumes the newest one that is not complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from llmgen import matrix, rundir
from llmgen.config import RunConfig, redact
from llmgen.errors import ConfigError, LlmgenError, RecordError
from llmgen.logs import log, set_up_log
from llmgen.matrix import Cell
from llmgen.metrics.factors import STREAM, CellRun, Effect, Streamed, compare_streamed, effects, figures
from llmgen.metrics.figures import Summary
from llmgen.metrics.summary import read_summary
from llmgen.run import run
from llmgen.validation import complete, validate

SCHEMA: Final = "llmgen.suite/1"
FILE: Final = "suite.json"
INTERRUPTED: Final = 130
# docs/contract.md's exit codes: the first that any run has is the suite's.
WORST_FIRST: Final = (130, 5, 4, 3)


class SuiteCell(msgspec.Struct, kw_only=True):
    cell: int
    levels: dict[str, str]


class SuiteRun(msgspec.Struct, kw_only=True):
    """One run of the suite. state: planned, running, complete, or incomplete (broken off: to be repeated)."""

    number: int  # its turn, from 1
    cell: int
    repeat: int
    seed: int
    state: str = "planned"
    directory: str | None = None  # of its last try, beside suite.json
    tries: int = 0
    verdict: str | None = None
    exit_code: int | None = None
    figures: dict[str, float | None] = {}


class Suite(msgspec.Struct, kw_only=True):
    """suite.json. state: running, complete or incomplete."""

    schema: str = SCHEMA
    name: str
    state: str = "running"
    fingerprint: str  # of the configuration: only the same one is resumed
    config: dict[str, Any]  # redacted, with its matrix
    factors: dict[str, list[str]]
    repeat: int
    cells: list[SuiteCell]
    runs: list[SuiteRun]
    effects: list[Effect] = []
    streamed: list[Streamed] = []

    @property
    def done(self) -> int:
        return sum(one.state == "complete" for one in self.runs)

    @property
    def exit_code(self) -> int:
        codes = {one.exit_code for one in self.runs}
        return next((code for code in WORST_FIRST if code in codes), 0)


@dataclass
class SuiteResult:
    """What a suite brought."""

    directory: Path
    suite: Suite
    exit_code: int


def is_suite(config: RunConfig) -> bool:
    return bool(config.matrix) or matrix.repeats(config) > 1


def run_suite(
    config: RunConfig,
    *,
    progress: bool | None = None,
    quiet: bool = False,
    json_out: bool = False,
    log_json: bool = False,
) -> SuiteResult:
    """Runs all cells, `repeat` times each; arguments as of run.run, whose errors it raises before the first run.

    An error or an interrupt of a run ends the suite with its records kept; started again it goes on there.
    """
    set_up_log(log_json, quiet)
    cells = matrix.cells(config)
    for cell in cells:
        _validate(cell)
    with _opened(config, cells) as (directory, suite):
        _announce(directory, suite)
        try:
            for one in suite.runs:
                if one.state == "complete":
                    continue
                shown = {"progress": _shown(progress, quiet, json_out), "quiet": quiet, "log_json": log_json}
                if _run(directory, suite, one, cells[one.cell], **shown) == INTERRUPTED:
                    break
        finally:
            suite.state = "complete" if suite.done == len(suite.runs) else "incomplete"
            _conclude(directory, suite)
    return SuiteResult(directory, suite, suite.exit_code)


def _shown(progress: bool | None, quiet: bool, json_out: bool) -> bool:
    return not quiet and not json_out if progress is None else progress


def _validate(cell: Cell) -> None:
    try:
        validate(complete(cell.config)[0])
    except ConfigError as error:
        raise ConfigError(f"matrix ({cell.label}): {error}" if cell.levels else str(error)) from None


def _run(
    directory: Path, suite: Suite, one: SuiteRun, cell: Cell, *, progress: bool, quiet: bool, log_json: bool
) -> int:
    """Runs one cell once; its exit code."""
    one.tries += 1
    one.state, one.directory = "running", f"{one.number:04d}" + (f"-{one.tries}" if one.tries > 1 else "")
    _write(directory, suite)
    config = msgspec.structs.replace(
        cell.config,
        name=f"{suite.name}-{one.directory}",
        seed=one.seed,
        out=str(directory),
        tags={**cell.config.tags, **cell.levels, "repeat": str(one.repeat)},
    )
    log.info("run %d of %d: %s, repeat %d", one.number, len(suite.runs), cell.label, one.repeat + 1)
    try:
        result = run(config, progress=progress, quiet=quiet, log_json=log_json, directory=directory / one.directory)
    except BaseException:
        one.state = "incomplete"
        raise
    one.exit_code, one.verdict = result.exit_code, result.summary.verdict.status
    one.figures = figures(result.summary)
    one.state = "incomplete" if one.verdict == "incomplete" else "complete"
    _write(directory, suite)
    log.info("run %d: %s", one.number, _line(result.summary))
    return one.exit_code


def _line(summary: Summary) -> str:
    ttft = summary.latency.ttft_from_due_ms
    told = f", TTFT from due p50 {ttft.p50:.1f} ms" if ttft is not None else ""
    return f"{summary.verdict.status}, {summary.requests.succeeded} of {summary.requests.scheduled} succeeded{told}"


# -- the directory -----------------------------------------------------------------------------------------------------


@contextmanager
def _opened(config: RunConfig, cells: list[Cell]) -> Iterator[tuple[Path, Suite]]:
    """The suite to go on with, or a new one; locked, so that no second process runs the same."""
    fresh = _fresh(config, cells)
    directory = _unfinished(config, fresh)
    suite = fresh if directory is None else read_suite(directory)
    if directory is None:
        directory = rundir.make(config.out, fresh.name)
        _write(directory, fresh)
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


def _fresh(config: RunConfig, cells: list[Cell]) -> Suite:
    repeat = matrix.repeats(config)
    shown = redact(config)
    turns = matrix.order(len(cells), repeat, config.seed)
    return Suite(
        name=config.name or "suite",
        fingerprint=hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode()).hexdigest()[:16],
        config=shown,
        factors={factor.key: list(factor.levels) for factor in matrix.factors(config)},
        repeat=repeat,
        cells=[SuiteCell(cell=cell.number, levels=cell.levels) for cell in cells],
        # cells share a repeat's seed: they get the same arrivals and bodies, and differ in their levels only
        runs=[
            SuiteRun(number=turn, cell=cell, repeat=number, seed=config.seed + number)
            for turn, (cell, number) in enumerate(turns, 1)
        ],
    )


def _unfinished(config: RunConfig, fresh: Suite) -> Path | None:
    """The newest suite in out with the same name that is not complete; None also if it was configured otherwise."""
    for path in sorted(Path(config.out).glob(f"*/{FILE}"), reverse=True):
        try:
            found = read_suite(path.parent)
        except RecordError:
            continue
        if found.name != fresh.name or found.state == "complete" or path.parent.is_symlink():
            continue
        if found.fingerprint == fresh.fingerprint:
            return path.parent
        log.info("%s is not complete, but was configured otherwise: a new suite begins", path.parent)
        return None
    return None


def _announce(directory: Path, suite: Suite) -> None:
    """Every cell, before the first run."""
    log.info("suite %s: %d cells, %d times each", directory, len(suite.cells), suite.repeat)
    for cell in suite.cells:
        log.info("  cell %d: %s", cell.cell + 1, matrix.label_of(cell.levels))
    if suite.done:
        log.info("resumed: %d of %d runs are there", suite.done, len(suite.runs))


def _write(directory: Path, suite: Suite) -> None:
    rundir.write_json(directory / FILE, msgspec.to_builtins(suite))


def read_suite(directory: Path) -> Suite:
    """suite.json of a directory. RecordError if there is none, or not one that this version reads."""
    path = directory / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Suite)
    except (OSError, msgspec.MsgspecError) as error:
        raise RecordError(f"{path}: cannot be read: {error}") from None


# -- what it shows -----------------------------------------------------------------------------------------------------


def _conclude(directory: Path, suite: Suite) -> None:
    """Effects and streamed pairs of what has run, into suite.json."""
    suite.effects = effects(cell_runs(suite), suite.factors)
    suite.streamed = _streamed(directory, suite)
    _write(directory, suite)


def report_suite(directory: Path) -> Suite:
    """The suite with its figures read again from its runs, also of one that was broken off. RecordError."""
    suite = read_suite(directory)
    for one in suite.runs:
        if one.state == "complete" and one.directory is not None:
            try:
                one.figures = figures(read_summary(directory / one.directory))
            except LlmgenError as error:
                log.warning("run %d is left out: %s", one.number, error)
                one.state = "incomplete"
    suite.effects = effects(cell_runs(suite), suite.factors)
    suite.streamed = _streamed(directory, suite)
    return suite


def cell_runs(suite: Suite) -> list[CellRun]:
    """The runs that are complete, as the figures' functions take them."""
    return [
        CellRun(cell=one.cell, repeat=one.repeat, levels=suite.cells[one.cell].levels, figures=one.figures)
        for one in suite.runs
        if one.state == "complete"
    ]


def _streamed(directory: Path, suite: Suite) -> list[Streamed]:
    """For every combination of the other factors: its requests streamed and not, of all repeats together."""
    if set(suite.factors.get(STREAM, ())) != {"true", "false"}:
        return []
    found: dict[tuple[tuple[str, str], ...], dict[tuple[int, str], np.ndarray]] = {}
    for one in sorted(suite.runs, key=lambda one: one.cell):
        if one.state != "complete" or one.directory is None:
            continue
        levels = dict(suite.cells[one.cell].levels)
        stream = levels.pop(STREAM)
        try:
            rows = np.load(directory / one.directory / "requests.npy", mmap_mode="r")
        except (OSError, ValueError):
            continue
        found.setdefault(tuple(levels.items()), {})[one.repeat, stream] = rows
    compared = []
    for others, rows_of in found.items():
        pairs = [
            (rows_of[number, "true"], rows_of[number, "false"])
            for number in range(suite.repeat)
            if (number, "true") in rows_of and (number, "false") in rows_of
        ]
        if pairs:
            compared.append(compare_streamed(pairs, dict(others)))
    return [one for one in compared if one is not None]
