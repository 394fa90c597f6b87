"""`llmgen report`: the report of a run, computed again from its records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmgen.cli.options import use_color

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgen.metrics.figures import Summary
    from llmgen.run import Result

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
def report_command(run: Path, kind: str, output: Path | None) -> None:
    """Report RUN again, from its records; also one that was interrupted or crashed. [default: runs/latest]"""
    from llmgen.metrics.summary import encode, summarise
    from llmgen.records import open_run

    found = open_run(run)
    summary = summarise(found)
    for note in found.notes:
        click.echo(f"llmgen: {note}", err=True)
    if kind == "html":
        from llmgen.report.html import write_html

        click.echo(write_html(found, summary, output))
        return
    if kind == "json":
        text = encode(summary).decode()
    else:
        text = terminal_report(summary, found.info, run, plain=output is not None)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def terminal_report(summary: Summary, info: Mapping[str, Any], run: Path, *, plain: bool = False) -> str:
    """The report as wide as the terminal, coloured if it takes colours and `plain` does not say otherwise."""
    from llmgen.records import read_errors
    from llmgen.report.text import render

    width = 80 if plain else shutil.get_terminal_size((80, 24)).columns
    return render(summary, info, width=width, color=not plain and use_color(), errors=read_errors(run))


def show_result(result: Result, directory: Path, *, as_json: bool, quiet: bool = False) -> int:
    """Prints what a finished run has to say, and returns its exit code."""
    if as_json:
        from llmgen.metrics.summary import encode

        click.echo(encode(result.summary), nl=False)
    elif not quiet:
        from llmgen.records import read_info

        click.echo(terminal_report(result.summary, read_info(directory), directory), nl=False)
        click.echo(f"\n{directory}  (llmgen report {directory} --format html)")
    return int(result.exit_code)
