"""`llmgen export`: a run, or the runs of a suite, for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmgen.cli.report import RUN
from llmgen.errors import ConfigError

if TYPE_CHECKING:
    from llmgen.records import Run
    from llmgen.report.export import Blocks


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
text for Prometheus's node_exporter or a push gateway. Of a suite (matrix,
--repeat, search, test) the first three hold all complete runs, with the columns
run, cell, repeat and label.""",
)
@RUN
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv", "parquet", "vllm-json", "openmetrics"]),
              default="jsonl", show_default=True)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there.  [default: stdout]")
def export_command(run: Path, kind: str, output: Path | None) -> None:
    """Write RUN's requests with their stamps, counts and status, or its summary. [default: runs/latest]

    RUN may be a suite.
    """
    from llmgen.report.members import is_suite

    if kind == "parquet" and output is None:
        raise ConfigError("--format parquet: needs --output FILE")
    notes: list[str] = []
    try:
        if is_suite(run):
            _export_suite(run, kind, output, notes)
        else:
            _export_run(run, kind, output, notes)
    except OSError as error:
        if output is None:
            raise
        raise ConfigError(f"--output {str(output)!r}: cannot be written: {error.strerror}") from None
    for note in notes:
        click.echo(f"llmgen: {note}", err=True)


def _export_run(path: Path, kind: str, output: Path | None, notes: list[str]) -> None:
    from llmgen.records import open_run
    from llmgen.report.export import blocks

    run = open_run(path)
    notes += run.notes
    if kind in ("vllm-json", "openmetrics"):
        _write_text(_document(run, kind), output)
    else:
        _write_requests(blocks(run), str(run.info.get("run_id")), kind, output)


def _export_suite(path: Path, kind: str, output: Path | None, notes: list[str]) -> None:
    from llmgen.report.export import suite_blocks
    from llmgen.report.members import members

    found, missing = members(path)
    if kind in ("vllm-json", "openmetrics"):
        raise ConfigError(
            f"--format {kind}: is one run's, {path} is a suite of {len(found)}: name one, like {found[0].path}"
        )
    if missing:
        notes.append(f"{missing} runs that are not complete are left out")
    _write_requests(suite_blocks(found), f"suite {path.resolve().name}", kind, output)


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


def _write_requests(found: Blocks, run_id: str, kind: str, output: Path | None) -> None:
    from llmgen.report.export import export
    from llmgen.report.interchange import write_parquet

    if output is None:
        export(found, kind, sys.stdout)
        return
    if kind == "parquet":
        count = write_parquet(found, output, run_id)
    else:
        with output.open("w", encoding="utf-8", newline="") as file:
            count = export(found, kind, file)
    click.echo(f"{count} requests written to {output}", err=True)
