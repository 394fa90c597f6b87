"""`llmgen report`: the report of a run, computed again from its records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmgen.cli.options import Value, use_color
from llmgen.cli.suite import show_suite, write_suite_page
from llmgen.decoding import Seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgen.metrics.figures import Summary
    from llmgen.run import Result

# Names of metrics/profiles.py, which a help text should not have to import (numpy); a test compares.
PROFILES = ("vllm", "aiperf", "guidellm", "inference-perf", "mlperf")
RUN = click.argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"))


@click.command(
    "report",
    short_help="Report a run again, from its records.",
    epilog="""\b
Examples:
  llmgen report                                the newest run, in the terminal
  llmgen report runs/NAME --format json
  llmgen report runs/NAME --format html        writes runs/NAME/report.html""",
)
@RUN
@click.option("--format", "kind", type=click.Choice(["text", "json", "html"]), default="text", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write there.  [default: stdout; for html, report.html in the run directory]")  # fmt: skip
@click.option("--metrics-as", type=click.Choice(PROFILES), metavar="NAME", help="Also by the definitions of another "
              "tool: vllm, aiperf, guidellm, inference-perf or mlperf.")  # fmt: skip
@click.option("--profiles", "every_profile", is_flag=True, help="Also by those of all of them, side by side.")
@click.option("--patience", metavar="T", type=Value("T", Seconds), multiple=True,
              help="Share of requests without a first token by T. Repeatable.  [default: 1s, 3s, 10s]")  # fmt: skip
@click.option("--checklist", is_flag=True, help="Also what this run did of a thorough test, and what is left to do.")
@click.option(
    "--junit", type=click.Path(path_type=Path), metavar="FILE", help="Objectives as JUnit XML, for CI systems."
)
def report_command(
    run: Path,
    kind: str,
    output: Path | None,
    metrics_as: str | None,
    every_profile: bool,
    patience: tuple[float, ...],
    checklist: bool,
    junit: Path | None,
) -> None:
    """Report RUN or a suite of runs again, from its records; also one that was interrupted or crashed.

    [default: runs/latest]
    """
    from llmgen.report.members import is_suite

    if is_suite(run):
        if kind == "html":
            click.echo(write_suite_page(run, output))
            return
        if output is not None:
            raise click.UsageError("--output: the text and the JSON of a suite go to stdout")
        show_suite(run, as_json=kind == "json")
        return
    from llmgen.metrics.summary import encode, summarise, with_profiles
    from llmgen.records import open_run

    found = open_run(run)
    summary = summarise(found, patience_s=patience or None)
    if metrics_as is not None or every_profile:
        summary = with_profiles(found, summary, None if every_profile else metrics_as)
    for note in found.notes:
        click.echo(f"llmgen: {note}", err=True)
    if junit is not None:
        write_junit(junit, summary)
    if kind == "html":
        from llmgen.report.html import write_html

        click.echo(write_html(found, summary, output))
        return
    if kind == "json":
        text = encode(summary).decode()
    else:
        text = terminal_report(summary, found.info, run, plain=output is not None)
        if checklist:
            from llmgen.metrics.checklist import checklist_of
            from llmgen.report.checklist import render

            text += render(checklist_of([(summary, found.info)]), color=output is None and use_color())
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def write_junit(path: Path, summary: Summary) -> None:
    from llmgen.report import junit

    name = summary.name or summary.run_id or "run"
    junit.write(path, junit.render(f"llmgen {name}", junit.cases_of(summary), summary.window.duration_s))


def terminal_report(summary: Summary, info: Mapping[str, Any], run: Path, *, plain: bool = False) -> str:
    """The report as wide as the terminal, coloured if it takes colours and `plain` does not say otherwise."""
    from llmgen.records import read_errors
    from llmgen.report.text import render

    width = 80 if plain else shutil.get_terminal_size((80, 24)).columns
    return render(summary, info, width=width, color=not plain and use_color(), errors=read_errors(run))


def show_result(
    result: Result,
    directory: Path,
    *,
    as_json: bool,
    quiet: bool = False,
    metrics_as: str | None = None,
    junit: Path | None = None,
) -> int:
    """Prints what a finished run has to say, and returns its exit code."""
    summary = result.summary
    if metrics_as is not None:
        from llmgen.metrics.summary import with_profiles
        from llmgen.records import open_run

        summary = with_profiles(open_run(directory), summary, metrics_as)
    if junit is not None:
        write_junit(junit, summary)
    if as_json:
        from llmgen.metrics.summary import encode

        click.echo(encode(summary), nl=False)
    elif not quiet:
        from llmgen.records import read_info

        click.echo(terminal_report(summary, read_info(directory), directory), nl=False)
        click.echo(f"\n{directory}  (llmgen report {directory} --format html)")
    return int(result.exit_code)
