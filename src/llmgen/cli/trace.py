"""`llmgen trace`: what is in a recorded workload, and the same in llmgen's own form."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from llmgen.cli.options import pairs
from llmgen.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


class TraceGroup(click.Group):
    """Its help ends in the formats; looked up only when asked for."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from llmgen.workload.traces import FORMATS

        with formatter.section("Formats (--format, --trace-format)"):
            formatter.write_dl([(name, each.about) for name, each in FORMATS.items()])


@click.group("trace", cls=TraceGroup, short_help="Look into recorded workloads, or convert them.")
def trace_command() -> None:
    """Look into a recorded workload, or write it in llmgen's own form."""


def reading(command: F) -> F:
    """The options that say how a file is read."""
    for option in reversed(
        (
            click.argument("file"),
            click.option("--format", "kind", metavar="NAME", default="auto", help="  [default: its first line tells]"),
            click.option("--columns", multiple=True, metavar="OURS=THEIRS", callback=pairs,
                         help="Column of a generic file: time, input, output, session, class, model. Repeatable."),
            click.option("--unit", metavar="s|ms|us|ns", help="Of its times.  [default: the format's]"),
            click.option("--block-size", type=int, metavar="N", help="Tokens of a hash id.  [default: the format's]"),
            click.option("--order", metavar="require|sort", default="auto", help="Of rows in time."),
            click.option("--zero-output", metavar="keep|drop", default="auto", help="Rows without an answer's token."),
            click.option("--window", metavar="A..B", help="Only this part of its time."),
            click.option("--jitter", metavar="J", help="Spread rows of one time: uniform:quantum or uniform:T."),
            click.option("--rate-scale", type=float, default=1.0, metavar="X", help="X times as many rows."),
            click.option("--seed", type=int, default=1, metavar="N", help="Of what is drawn."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def trace_of(flags: dict[str, Any]) -> Any:
    """The configuration's `trace` of these options."""
    from llmgen.config import Trace

    names = ("file", "columns", "unit", "block_size", "order", "zero_output", "window", "jitter", "rate_scale")
    return Trace(format=flags["kind"], **{name: flags[name] for name in names})


@trace_command.command(
    "inspect",
    short_help="Rows, span, rate, lengths, reuse.",
    epilog="""\b
Examples:
  llmgen trace inspect conversation_trace.jsonl
  llmgen trace inspect requests.csv --columns time=t --columns input=in \\
    --columns output=out --unit ms""",
)
@reading
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect_command(as_json: bool, seed: int, **flags: Any) -> None:
    """What is in the trace FILE: rows, span, rate, CV of the gaps, lengths, and the reuse that prefixes allow."""
    import msgspec

    from llmgen.workload import traces
    from llmgen.workload.traces.inspection import inspect, lines_of

    trace = trace_of(flags)
    name = traces.name_of(trace)
    facts = inspect(traces.replayed(trace, seed), name)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(facts), indent=2))
    else:
        click.echo("\n".join(lines_of(facts)))


@trace_command.command(
    "convert",
    short_help="Write it as JSON lines of the neutral record.",
    epilog="""\b
Examples:
  llmgen trace convert BurstGPT_1.csv --to week.jsonl --window 0s..7d
  llmgen trace convert chunks/ --window 10h..11h --to hour.jsonl.gz""",
)
@reading
@click.option("--to", "output", type=click.Path(path_type=Path), metavar="FILE", help="Write there.  [default: stdout]")
def convert_command(output: Path | None, seed: int, **flags: Any) -> None:
    """Write the trace FILE as JSON lines of the neutral record, which --trace-format llmgen reads.

    Window, jitter and rate scale are applied, so that what is written is what a replay would send.
    """
    import gzip

    from llmgen.workload import traces
    from llmgen.workload.traces.neutral import lines_of

    trace = trace_of(flags)
    blocks = traces.replayed(trace, seed)
    rows = 0
    try:
        if output is None:
            for block in blocks:
                sys.stdout.buffer.writelines(lines_of(block))
            sys.stdout.buffer.flush()
            return
        with gzip.open(output, "wb") if output.suffix == ".gz" else output.open("wb") as file:
            for block in blocks:
                file.writelines(lines_of(block))
                rows += len(block)
    except OSError as error:
        if output is None:
            raise
        raise ConfigError(f"--to {str(output)!r}: cannot be written: {error.strerror or error}") from None
    click.echo(f"{rows} rows written to {output}", err=True)
