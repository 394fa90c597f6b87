"""`llmgen plan`: what a run would send, without sending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmgen.cli.options import SectionedCommand, SectionedOption, Value
from llmgen.cli.run import KEY_OF_FLAG, given_keys, run_command
from llmgen.config import RunConfig, load_config, merge
from llmgen.decoding import Seconds

PLAN = "Plan"


def plan(ctx: click.Context, /, config: Path | None, **_: Any) -> None:
    """What a run of CONFIG would send, without sending: requests by class, rate, lengths, tokens, needs, cost.

    Takes the flags of `llmgen run`. Nothing is asked of the target; what depends on it is told for an assumed service.
    """
    import msgspec

    from llmgen.preview import preview
    from llmgen.preview.page import write_page
    from llmgen.preview.text import render
    from llmgen.validation import complete

    start = RunConfig() if config is None else load_config(config)
    completed, notes = complete(merge(start, given_keys(ctx)))
    shown = ctx.params
    found = preview(completed, ttft_s=shown["assume_ttft"], itl_s=shown["assume_itl"])
    found.notes[:0] = notes
    if shown["page"] is not None:
        write_page(found, shown["page"])
    if shown["as_json"]:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        click.echo(render(found), nl=False)


plan_command = SectionedCommand(
    "plan",
    callback=click.pass_context(plan),
    help=plan.__doc__,
    short_help="What a run would send, without sending.",
    epilog="""\b
Examples:
  llmgen plan load.yaml
  llmgen plan load.yaml --rate 40 --assume-ttft 300ms --assume-itl 15ms
  llmgen plan --trace conversation_trace.jsonl --trace-jitter uniform:quantum""",
    params=[
        *(param for param in run_command.params if param.name == "config" or param.opts[0] in KEY_OF_FLAG),
        SectionedOption(["--assume-ttft"], section=PLAN, type=Value("T", Seconds), default="500ms", show_default=True,
                        help="Service assumed for the requests in flight: time to the first token."),
        SectionedOption(["--assume-itl"], section=PLAN, type=Value("T", Seconds), default="20ms", show_default=True,
                        help="And to each further one."),
        SectionedOption(["--html", "page"], section=PLAN, type=click.Path(path_type=Path), metavar="FILE",
                        help="Write a page with plots there."),
        SectionedOption(["--json", "as_json"], section=PLAN, is_flag=True, help="As JSON."),
    ],
)  # fmt: skip
