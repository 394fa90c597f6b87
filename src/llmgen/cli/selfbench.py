"""`llmgen selfbench`: what this client can do on this machine, and how true it is."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmgen.cli.options import Value, use_color
from llmgen.decoding import Seconds
from llmgen.errors import ConfigError

if TYPE_CHECKING:
    from llmgen.selfbench import SelfBench

INTERRUPTED = 130


@click.command(
    "selfbench",
    short_help="What this client can do here, and how true it is.",
    epilog="""\b
Drives embedded servers on other cores, at most three minutes, until the
verdict on the client turns: events/s and requests/s of one core, the error of
TTFT and gaps against the servers' logs, schedule lag beside that of a plain C
loop, memory of a stream. Nothing leaves this machine (docs/selfbench.md).
\b
A complete result is kept in ~/.cache/llmgen (or $XDG_CACHE_HOME/llmgen):
selfbench.json, which later runs name when they were late, and selfbench.html.
Ctrl-C prints what was measured until then. Exit codes: 0 measured,
130 interrupted.""",
)
@click.option("--quick", is_flag=True, help="At most 40 seconds: fewer and shorter steps.")
@click.option("--time", "time_s", metavar="T", type=Value("T", Seconds),
              help="Begin nothing more after T.  [default: 170s; with --quick 34s]")  # fmt: skip
@click.option("--step", "step_s", metavar="T", type=Value("T", Seconds),
              help="Measured part of each step.  [default: 2s; with --quick 600ms]")  # fmt: skip
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write the page with the plots there.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--progress/--no-progress", default=None, help="A line a step.  [default: if stderr is a terminal]")
def selfbench_command(
    quick: bool, time_s: float | None, step_s: float | None, out: Path | None, as_json: bool, progress: bool | None
) -> int:
    """Measure llmgen itself on this machine, against an embedded server."""
    import dataclasses

    import msgspec

    from llmgen.report import page
    from llmgen.selfbench import FULL, QUICK, measure
    from llmgen.selfbench import page as own_page
    from llmgen.selfbench.text import render

    for option, value in (("--time", time_s), ("--step", step_s)):
        if value is not None and not value > 0:
            raise ConfigError(f"{option} {value:g}: must be a time above 0, like 500ms")
    effort = QUICK if quick else FULL
    effort = dataclasses.replace(effort, budget_s=time_s or effort.budget_s, step_s=step_s or effort.step_s)
    found = measure(effort, teller(sys.stderr.isatty() if progress is None else progress))
    document = own_page.render(found)
    if out is not None:
        page.write_for("--out", out, document)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        click.echo(render(found, width=shutil.get_terminal_size((80, 24)).columns, color=use_color()), nl=False)
    kept = keep(found, document) if found.state == "complete" else None
    if not as_json:
        written = [str(path) for path in (kept, out) if path is not None]
        click.echo(f"\n{'  '.join(written)}" if written else "", nl=bool(written))
    return 0 if found.state == "complete" else INTERRUPTED


def teller(show: bool) -> Callable[[str], None]:
    return lambda text: click.echo(f"llmgen: {text}", err=True) if show else None


def keep(found: SelfBench, document: str) -> Path | None:
    """Writes both files into the cache; None, with a word on stderr, where it cannot be written."""
    import msgspec

    from llmgen import machine
    from llmgen.report import page

    try:
        folder = machine.cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        page.write(folder / "selfbench.json", msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
        with contextlib.suppress(OSError):
            page.write(folder / "selfbench.html", document)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        click.echo(f"llmgen: the result is not kept for later runs: {error}; set XDG_CACHE_HOME", err=True)
        return None
    return folder / "selfbench.html"
