"""`llmgen search`: what it is asked for as flags, and those of `run` but for what it decides itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmgen.cli.options import SectionedCommand, SectionedOption
from llmgen.cli.run import given_keys, run_command
from llmgen.cli.suite import OF_ONE_RUN, SEARCH, shown_series
from llmgen.config import RunConfig, load_config, merge

NOT_HERE = OF_ONE_RUN | {"--rate"}


def own(name: str, kind: type, metavar: str, text: str) -> click.Option:
    return SectionedOption([name], type=kind, metavar=metavar, help=text, section="Search")


OWN = (
    own("--rate-min", float, "R", "The first rate; where it misses the objectives, nothing is found.  [default: "
        "load.rate of the file, else 1]"),
    own("--rate-max", float, "R", "Never offer more.  [default: until the objectives are missed]"),
    own("--target", float, "X", "Share of the requests that must keep all limits on a request.  [default: that of a "
        "goodput objective, else 0.99]"),
    own("--confidence", float, "X", "Of each end of an interval.  [default: 0.95]"),
    own("--tolerance", float, "X", "Stop when the smallest rate that misses is so close above.  [default: 0.05]"),
    own("--runs", int, "N", "At most so many, of --duration each.  [default: 12]"),
)  # fmt: skip


@click.pass_context
def _run(ctx: click.Context, /, config: Path | None, **given: Any) -> int:
    from llmgen.search import Parameters, exit_code, prepare, run_search

    merged = merge(RunConfig() if config is None else load_config(config), given_keys(ctx))
    names = ("rate_min", "rate_max", "target", "confidence", "tolerance", "runs")
    asked = {name: given[name] for name in names if given[name] is not None}
    prepared, plan, target = prepare(merged, Parameters(**asked))
    with shown_series(prepared, SEARCH, asked, given) as series:
        return exit_code(run_search(prepared, plan, target, series))


search_command = SectionedCommand(
    "search",
    params=[
        run_command.params[0],
        *OWN,
        *(param for param in run_command.params[1:] if not NOT_HERE & set(param.opts)),
    ],
    callback=_run,
    short_help="Find the largest rate that meets the objectives.",
    help="""Find the largest offered rate that meets the objectives (--slo), with stated confidence.

    Runs of one rate each: a ramp in coarse steps until a rate fails, then the gap is divided, and runs near the edge
    are repeated. CONFIG is a file as of llmgen run; flags win over it. Runs last 30 s unless --duration says
    otherwise, and their first fifth is cut (--warmup).""",
    epilog="""\b
Examples:
  llmgen search --url http://gpu:8000 --slo 'ttft<500ms' --slo 'tpot<50ms'
  llmgen search load.yaml --rate-min 5 --rate-max 200 --tolerance 0.03
  llmgen report runs/NAME --format html        its page again
\b
docs/search.md explains what it finds. Started again, an unfinished search goes
on where it was. Exit codes: 0 found, or met up to --rate-max or --runs, 2 usage
or configuration, 3 not even the lowest rate meets the objectives, 4 the client
is the limit, or too few requests to tell, 5 nothing succeeded, 130 interrupted.""",
)
