"""The command line: one file a command; parses, calls, prints. No logic lives here."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from llmgen.cli.check import check_command
from llmgen.cli.compare import compare_command
from llmgen.cli.demo import demo_command
from llmgen.cli.export import export_command
from llmgen.cli.listing import list_command
from llmgen.cli.plan import plan_command
from llmgen.cli.report import report_command
from llmgen.cli.run import run_command
from llmgen.cli.search import search_command
from llmgen.cli.selfbench import selfbench_command
from llmgen.cli.serve import serve_command
from llmgen.cli.test import test_command
from llmgen.cli.trace import trace_command
from llmgen.errors import LlmgenError

BUG, INTERRUPTED = 1, 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended: `llmgen export … | head`


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="llmgen", prog_name="llmgen", message="%(prog)s %(version)s")
def command() -> None:
    """Open-loop load for LLM inference endpoints, with every token stamped at the socket."""


COMMANDS = (
    run_command,
    search_command,
    test_command,
    check_command,
    selfbench_command,
    demo_command,
    serve_command,
    report_command,
    compare_command,
    list_command,
    export_command,
    plan_command,
    trace_command,
)
for each in COMMANDS:
    command.add_command(each)


def call(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code (docs/contract.md, "Exit codes"); errors are one line on stderr."""
    try:
        outcome = command.main(args=list(arguments), prog_name="llmgen", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except LlmgenError as error:
        click.echo(f"llmgen: {error}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("llmgen: interrupted", err=True)
        return INTERRUPTED
    except SystemExit as left:
        # In this mode click leaves like that for two reasons only: it answered the shell's completion, or the pipe
        # that it wrote to is broken, which it makes a 1. That is our code for a bug.
        if left.code != 1 or "_LLMGEN_COMPLETE" in os.environ:
            raise
        return BROKEN_PIPE
    except Exception:
        traceback.print_exc()
        click.echo("llmgen: this is a bug of llmgen; please report it with the lines above", err=True)
        return BUG


def main() -> NoReturn:
    """The entry point of the command `llmgen`."""
    sys.exit(call(sys.argv[1:]))
