"""A suite: the cells of a matrix run one after the other, each several times, in one directory that can be resumed.

The directory is series.py's; here every run is known beforehand. Starting a suite again with the same configuration,
out and name resumes the newest one that is not complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from llmgen import matrix
from llmgen.config import RunConfig, redact
from llmgen.errors import ConfigError
from llmgen.logs import log, set_up_log
from llmgen.matrix import Cell
from llmgen.metrics.factors import STREAM, CellRun, Streamed, compare_streamed, effects
from llmgen.series import (
    INTERRUPTED,
    Suite,
    SuiteCell,
    SuiteRun,
    fingerprint,
    read_suite,
    resumed,
    shows_progress,
    take,
    with_figures,
    write_suite,
)
from llmgen.validation import complete, validate


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
    settings = {"progress": shows_progress(progress, quiet, json_out), "quiet": quiet, "log_json": log_json}
    with resumed(config.out, _fresh(config, cells)) as (directory, suite):
        _announce(directory, suite)
        try:
            for one in suite.runs:
                if one.state == "complete":
                    continue
                cell = cells[one.cell]
                tags = {**cell.config.tags, **cell.levels, "repeat": str(one.repeat)}
                settled = msgspec.structs.replace(cell.config, tags=tags)
                label = f"{cell.label}, repeat {one.repeat + 1}"
                if take(directory, suite, one, settled, label, **settings).exit_code == INTERRUPTED:
                    break
        finally:
            suite.state = "complete" if suite.done == len(suite.runs) else "incomplete"
            _conclude(directory, suite)
    return SuiteResult(directory, suite, suite.exit_code)


def _validate(cell: Cell) -> None:
    try:
        validate(complete(cell.config)[0])
    except ConfigError as error:
        raise ConfigError(f"matrix ({cell.label}): {error}" if cell.levels else str(error)) from None


# -- the directory -----------------------------------------------------------------------------------------------------


def _fresh(config: RunConfig, cells: list[Cell]) -> Suite:
    repeat = matrix.repeats(config)
    shown = redact(config)
    turns = matrix.order(len(cells), repeat, config.seed)
    return Suite(
        name=config.name or "suite",
        fingerprint=fingerprint(shown),
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


def _announce(directory: Path, suite: Suite) -> None:
    """Every cell, before the first run."""
    log.info("suite %s: %d cells, %d times each", directory, len(suite.cells), suite.repeat)
    for cell in suite.cells:
        log.info("  cell %d: %s", cell.cell + 1, matrix.label_of(cell.levels))
    if suite.done:
        log.info("resumed: %d of %d runs are there", suite.done, len(suite.runs))


# -- what it shows -----------------------------------------------------------------------------------------------------


def _conclude(directory: Path, suite: Suite) -> None:
    """Effects and streamed pairs of what has run, into suite.json."""
    suite.effects = effects(cell_runs(suite), suite.factors)
    suite.streamed = _streamed(directory, suite)
    write_suite(directory, suite)


def report_suite(directory: Path) -> Suite:
    """The suite with its figures read again from its runs, also of one that was broken off. RecordError."""
    suite = with_figures(directory, read_suite(directory))
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
