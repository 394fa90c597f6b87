"""`llmgen check`: this machine and the target, before a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from llmgen.cli.options import SectionedCommand, SectionedOption, use_color
from llmgen.cli.run import OUTPUT, given_keys, run_command
from llmgen.config import RunConfig, load_config, merge


@click.command(
    "check",
    short_help="Preflight of this machine and the target.",
    cls=SectionedCommand,
    epilog="""\b
Examples:
  llmgen check                                 this machine
  llmgen check --url http://gpu:8000 --rate 40 --output-tokens 300
  llmgen check load.yaml
\b
Takes every flag of run that belongs to the load: change the one word. Sends a
connection to each address, a question for the models, one short request, and
the shortest and the longest of each class.
Exit codes: 0 nothing failed, 2 configuration or limits, 5 target unreachable.""",
)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON.", cls=SectionedOption, section=OUTPUT)
@click.pass_context
def check_command(ctx: click.Context, /, config: Path | None, as_json: bool, **_: Any) -> int:
    """Check this machine, the target and the limits that the load of CONFIG or the flags would meet; with cures.

    Without a target, this machine only.
    """
    start = RunConfig() if config is None else load_config(config)
    merged = merge(start, given_keys(ctx))
    import msgspec

    from llmgen.checks import check
    from llmgen.checks.table import render

    report = check(merged)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        click.echo(render(report, width=shutil.get_terminal_size((80, 24)).columns, color=use_color()), nl=False)
    return report.exit_code


# The options of `run`, but for its arguments and what only a report needs.
check_command.params[1:1] = [
    option for option in run_command.params if isinstance(option, SectionedOption) and option.section != OUTPUT
]
