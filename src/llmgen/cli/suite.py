"""What `llmgen run`, `search`, `test` and `report` print of a suite."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from llmgen.cli.options import use_color

if TYPE_CHECKING:
    from llmgen.config import RunConfig
    from llmgen.series import Series, Suite

SEARCH = "search"  # the kind of such a suite

# Flags of `run` that are for a single run, or that a search and a test decide themselves.
# fmt: off
OF_ONE_RUN = frozenset((
    "--concurrency", "--requests", "--normalize",
    "--trace", "--trace-format", "--trace-scale", "--trace-rate-scale", "--trace-jitter", "--trace-window",
    "--trace-loop", "--repeat", "--metrics-as", "--junit", "--listen-metrics",
))
# fmt: on


@contextmanager
def shown_series(
    config: RunConfig, kind: str, parameters: Mapping[str, Any], given: Mapping[str, Any]
) -> Iterator[Series]:
    """A series that is shown at its end, as page and in the terminal; `given`: the flags as click has them.

    Also one that was interrupted, or whose target went away for good.
    """
    from llmgen.series import opened

    series = None
    try:
        with opened(
            config,
            kind,
            parameters=parameters,
            progress=given["progress"],
            quiet=given["quiet"],
            json_out=given["as_json"],
            log_json=given["log_json"],
        ) as series:
            yield series
    finally:
        if series is not None and series.suite.conclusion is not None:
            write_suite_page(series.directory, None)
            show_suite(series.directory, as_json=given["as_json"], quiet=given["quiet"])


def show_suite(directory: Path, *, as_json: bool, quiet: bool = False) -> None:
    """What the runs show, read again from them: cells and effects, or a conclusion; suite.json with `as_json`."""
    from llmgen.matrix import label_of
    from llmgen.report.suite import render_suite
    from llmgen.series import MATRIX, read_suite
    from llmgen.suite import cell_runs, report_suite

    if read_suite(directory).kind != MATRIX:
        show_series(directory, as_json=as_json, quiet=quiet)
        return
    suite = report_suite(directory)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(suite), indent=1))
    elif not quiet:
        title = f"suite {suite.name}: {suite.done} of {len(suite.runs)} runs"
        levels = [cell.levels for cell in suite.cells]
        width = shutil.get_terminal_size((100, 24)).columns
        text = render_suite(
            title, levels, cell_runs(suite), suite.effects, suite.streamed, label_of, width=width, color=use_color()
        )
        click.echo(text, nl=False)
        click.echo(f"\n{directory}  (llmgen report {directory}/0001)")


def write_suite_page(directory: Path, output: Path | None) -> Path:
    """The page of a search or a test; where it lies. ConfigError for other suites, which have none."""
    from llmgen.errors import ConfigError
    from llmgen.report import page, search, search_page, strategy, strategy_page

    suite = read_series(directory)
    if suite.conclusion is None or not (suite.kind == SEARCH or suite.kind.startswith("test-")):
        raise ConfigError("--format html: of suites only a search or a test has a page; each run has a report.html")
    if suite.kind == SEARCH:
        found, finished = search.read_conclusion(suite.conclusion), suite.state == "complete"
        made = search_page.render_page(suite.name, found, finished=finished)
    else:
        runs = msgspec.to_builtins(suite.runs)
        made = strategy_page.render_page(suite.name, strategy.read_conclusion(suite.conclusion), runs)
    if output is not None:
        page.write_for("--output", output, made)
        return output
    page.write(directory / "report.html", made)
    return directory / "report.html"


def read_series(directory: Path) -> Suite:
    """suite.json with the figures read again from its runs; of a soak that was killed, what it recorded."""
    from llmgen.series import read_suite, with_figures

    suite = with_figures(directory, read_suite(directory))
    if suite.kind == "test-soak" and any(one.state == "running" for one in suite.runs):
        from llmgen.strategies.soak import so_far

        suite.conclusion = msgspec.to_builtins(so_far(directory, suite))
    return suite


def show_series(directory: Path, *, as_json: bool, quiet: bool = False) -> None:
    """The runs of a search or a test and what they show; suite.json with `as_json`."""
    from llmgen.report.series import render_runs

    suite = read_series(directory)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(suite), indent=1))
    elif not quiet:
        width = shutil.get_terminal_size((80, 24)).columns
        runs = msgspec.to_builtins(suite.runs)
        if suite.kind == SEARCH and suite.conclusion is not None:
            from llmgen.report import search

            found, finished = search.read_conclusion(suite.conclusion), suite.state == "complete"
            text = search.render(suite.name, found, runs, finished=finished, width=width, color=use_color())
        elif suite.kind.startswith("test-") and suite.conclusion is not None:
            from llmgen.report.strategy import read_conclusion, render

            text = render(suite.name, read_conclusion(suite.conclusion), runs, width=width, color=use_color())
        else:
            title = f"{suite.kind} {suite.name}: {suite.outcome or suite.state}"
            text = render_runs(title, runs, width=width, color=use_color())
        click.echo(text, nl=False)
        page = directory / "report.html"
        click.echo(f"\n{page if page.exists() else directory}")
