"""What `llmgen run` and `llmgen report` print of a suite."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from llmgen.cli.options import use_color


def is_suite_directory(path: Path) -> bool:
    return (path / "suite.json").exists()


def show_suite(directory: Path, *, as_json: bool, quiet: bool = False) -> None:
    """Cells, effects and streamed pairs, read again from the suite's runs; suite.json with `as_json`."""
    import msgspec

    from llmgen.matrix import label_of
    from llmgen.report.suite import render_suite
    from llmgen.suite import cell_runs, report_suite

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
