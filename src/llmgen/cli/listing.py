"""`llmgen list`: the runs of a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llmgen.cli.options import use_color

FILE_WIDTH = 160  # of the table when it does not go to a terminal: wide enough not to fold usual names


@click.command("list", short_help="List runs, newest first.")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_command(folder: Path, as_json: bool) -> None:
    """List the runs in DIR, newest first, with verdict, requests and TTFT from due. [default: runs]"""
    import msgspec
    from rich.console import Console

    from llmgen.report.listing import find_runs, render

    entries = find_runs(folder)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(entries), indent=2))
    elif not entries:
        click.echo(f"no runs in {folder}")
    else:
        width = None if sys.stdout.isatty() else FILE_WIDTH
        render(entries, Console(width=width, no_color=not use_color(), highlight=False, markup=False))
