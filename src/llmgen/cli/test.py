"""`llmgen test STRATEGY`: a strategy's parameters as flags, and those of `run` but for what it decides itself."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from llmgen.cli.options import SectionedCommand, SectionedOption, Value
from llmgen.cli.run import given_keys, run_command
from llmgen.cli.suite import OF_ONE_RUN, shown_series
from llmgen.config import RunConfig, load_config, merge
from llmgen.decoding import Marker, decode
from llmgen.durations import format_duration

if TYPE_CHECKING:
    from llmgen.strategies import Strategy

NOT_HERE = OF_ONE_RUN | {"--duration", "--warmup", "--cooldown"}
SHARED = """docs/strategies.md walks through all of them. Started again, an unfinished test
goes on where it was. Exit codes: 0 passed, 3 failed, 4 invalid or incomplete,
5 nothing succeeded, 130 interrupted."""


class Strategies(click.Group):
    """Commands made when they are asked for: a strategy's flags stand in its module, whose import costs a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from llmgen.strategies import STRATEGIES

        return list(STRATEGIES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from llmgen.strategies import STRATEGIES, strategy

        return command_of(name, STRATEGIES[name], strategy(name)) if name in STRATEGIES else None


def command_of(name: str, summary: str, module: Strategy) -> click.Command:
    own = [_option(field, module.HELP[field.name]) for field in msgspec.structs.fields(module.Parameters)]
    shared = [param for param in run_command.params if not NOT_HERE & set(param.opts)]
    return SectionedCommand(
        name,
        params=[shared[0], *own, *shared[1:]],
        callback=click.pass_context(_run),
        help=f"{module.__doc__}\nCONFIG is a file as of llmgen run; flags win over it.",
        short_help=summary,
        epilog=f"\b\n{SHARED}",
    )


def _option(field: msgspec.structs.FieldInfo, text: str) -> click.Option:
    """A parameter of a strategy as a flag: its type by its annotation."""
    kind, *extra = typing.get_args(field.type) if typing.get_origin(field.type) is typing.Annotated else (field.type,)
    markers = [one for one in extra if isinstance(one, Marker)]
    given: Any = Value("T", markers[0]) if markers else int if kind is int else float
    default = field.default
    if default is not None:
        text += f"  [default: {format_duration(default) if markers else f'{default:g}'}]"
    return SectionedOption(
        [f"--{field.name.replace('_', '-')}"],
        type=given,
        metavar="T" if markers else "N" if kind is int else "X",
        help=text,
        section="Strategy",
    )


@click.command(
    "test",
    cls=Strategies,
    subcommand_metavar="STRATEGY [CONFIG] [FLAGS]",
    short_help="Baseline, load, stress, soak …: a layer of a test in one command.",
)
def test_command() -> None:
    """Run a test strategy: a series of runs with a documented schedule, stop rules and a verdict."""


def _run(ctx: click.Context, /, config: Path | None, **given: Any) -> int:
    from llmgen.strategies import strategy
    from llmgen.strategies.taking import exit_code

    name = ctx.command.name or ""
    module = strategy(name)
    merged = merge(RunConfig() if config is None else load_config(config), given_keys(ctx))
    names = [field.name for field in msgspec.structs.fields(module.Parameters)]
    parameters = decode({key: given[key] for key in names if given[key] is not None}, module.Parameters)
    module.check(merged, parameters)
    with shown_series(merged, f"test-{name}", msgspec.to_builtins(parameters), given) as series:
        conclusion = module.run(merged, series, parameters)
        return exit_code(conclusion, [one.exit_code for one in series.suite.runs])
