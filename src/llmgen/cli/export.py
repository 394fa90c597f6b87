"""`llmgen export`: the requests of a run for other programs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llmgen.cli.report import RUN
from llmgen.errors import ConfigError


@click.command(
    "export",
    short_help="Write a run's requests as JSON lines or CSV.",
    epilog="""\b
Examples:
  llmgen export runs/NAME --format csv --output requests.csv
  llmgen export --format jsonl | jq 'select(.status != "ok")'""",
)
@RUN
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there.  [default: stdout]")
def export_command(run: Path, kind: str, output: Path | None) -> None:
    """Write one record for each request of RUN, with its stamps, counts and status. [default: runs/latest]"""
    from llmgen.records import open_run
    from llmgen.report.export import export

    found = open_run(run)
    if output is None:
        export(found, kind, sys.stdout)
    else:
        try:
            with output.open("w", encoding="utf-8", newline="") as file:
                count = export(found, kind, file)
        except OSError as error:
            raise ConfigError(f"--output {str(output)!r}: cannot be written: {error.strerror}") from None
        click.echo(f"{count} requests written to {output}", err=True)
    for note in found.notes:
        click.echo(f"llmgen: {note}", err=True)
