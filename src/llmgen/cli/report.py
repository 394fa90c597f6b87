"""`llmgen report`: the report of a run, computed again from its records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmgen.cli.options import use_color

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgen.metrics.figures import Summary

RUN = click.argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"))


@click.command(
    "report",
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
    from llmgen.report.text import render

    width = 80 if plain else shutil.get_terminal_size((80, 24)).columns
    return render(summary, info, width=width, color=not plain and use_color(), errors=error_samples(run))


def error_samples(run: Path) -> list[dict[str, Any]]:
    """The lines of errors.jsonl; none if the run had no errors. A line cut short by a crash is left out."""
    try:
        lines = (run / "errors.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    samples = []
    for line in lines:
        try:
            sample = json.loads(line)
        except ValueError:
            continue
        if isinstance(sample, dict):
            samples.append(sample)
    return samples
