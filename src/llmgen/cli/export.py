"""`llmgen export`: a run for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmgen.cli.report import RUN
from llmgen.cli.suite import is_suite_directory
from llmgen.errors import ConfigError

if TYPE_CHECKING:
    from llmgen.records import Run


@click.command(
    "export",
    short_help="Write a run's requests, or its summary, for other programs.",
    epilog="""\b
Examples:
  llmgen export runs/NAME --format csv --output requests.csv
  llmgen export --format jsonl | jq 'select(.status != "ok")'
  llmgen export --format parquet --output requests.parquet
\b
Formats: jsonl, csv and parquet hold one record for each request; vllm-json is
the file of vllm bench serve, by its definitions; openmetrics is the summary as
text for Prometheus's node_exporter or a push gateway.""",
)
@RUN
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv", "parquet", "vllm-json", "openmetrics"]),
              default="jsonl", show_default=True)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there.  [default: stdout]")
def export_command(run: Path, kind: str, output: Path | None) -> None:
    """Write RUN's requests with their stamps, counts and status, or its summary. [default: runs/latest]"""
    from llmgen.records import open_run

    if is_suite_directory(run):
        raise ConfigError(f"{run}: a suite of several runs; export one of them, like {run}/0001")
    found = open_run(run)
    if kind == "parquet" and output is None:
        raise ConfigError("--format parquet: needs --output FILE")
    try:
        if kind in ("vllm-json", "openmetrics"):
            _write_text(_document(found, kind), output)
        else:
            _write_requests(found, kind, output)
    except OSError as error:
        if output is None:
            raise
        raise ConfigError(f"--output {str(output)!r}: cannot be written: {error.strerror}") from None
    for note in found.notes:
        click.echo(f"llmgen: {note}", err=True)


def _document(run: Run, kind: str) -> str:
    if kind == "vllm-json":
        from llmgen.report.interchange import vllm_json

        return vllm_json(run).decode()
    from llmgen.metrics.summary import summarise
    from llmgen.report.openmetrics import render

    return render(summarise(run))


def _write_text(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def _write_requests(run: Run, kind: str, output: Path | None) -> None:
    from llmgen.report.export import export
    from llmgen.report.interchange import write_parquet

    if output is None:
        export(run, kind, sys.stdout)
        return
    if kind == "parquet":
        count = write_parquet(run, output)
    else:
        with output.open("w", encoding="utf-8", newline="") as file:
            count = export(run, kind, file)
    click.echo(f"{count} requests written to {output}", err=True)
