"""`llmgen demo`: a run against an embedded endpoint of its own; no network, no configuration."""

from __future__ import annotations

import os
from pathlib import Path

import click

from llmgen.cli.options import Value
from llmgen.cli.report import show_result
from llmgen.config import Load, RunConfig, Target, Workload
from llmgen.decoding import Seconds

RATE = 20.0  # with answers of about 100 tokens every 20 ms: some 45 in flight, at home on two small cores


@click.command(
    "demo",
    short_help="See it all at work, without a network or a server.",
    epilog="""\b
The endpoint answers after about 120 ms and then emits a token every 20 ms, so
the report's TTFT and ITL can be checked by eye.""",
)
@click.option("--rate", metavar="R", type=float, default=RATE, show_default=True, help="Requests per second, Poisson.")
@click.option("--duration", type=Value("T", Seconds), default="15s", show_default=True, help="Length of the load.")
@click.option("--http", type=click.Choice(["1.1", "2"]), default="1.1", show_default=True, help="Protocol.")
@click.option("--seed", metavar="N", type=int, default=1, show_default=True, help="Same seed, same times and bodies.")
@click.option("--out", metavar="DIR", default="runs", show_default=True, help="Folder of runs.")
@click.option("--progress/--no-progress", default=None, help="Live view.  [default: if stderr is a terminal]")
@click.option("--json", "as_json", is_flag=True, help="summary.json on stdout instead of the report.")
def demo_command(
    rate: float, duration: float, http: str, seed: int, out: str, progress: bool | None, as_json: bool
) -> int:
    """See llmgen at work: an embedded endpoint, a Poisson load, the live view, the report."""
    from llmgen.run import run
    from llmgen.simulator import Endpoint, Options

    cores = sorted(os.sched_getaffinity(0))
    own = str(cores[-1]) if len(cores) > 1 else None
    with Endpoint(Options(ttft="lognormal:120ms,30ms", itl="20ms", seed=seed, cores=own)) as endpoint:
        if own is not None:
            # The endpoint has its core to itself. Only now: a child inherits what its parent may run on.
            os.sched_setaffinity(0, cores[:-1])
        config = RunConfig(
            name="demo",
            seed=seed,
            out=out,
            target=Target(urls=(endpoint.url,), http=http),
            load=Load(arrival="poisson", rate=rate, duration=duration, warmup="10%"),
            workload=Workload(input="lognormal:300,150", output="uniform:40,160"),
            slo=("ttft<1s", "goodput>=0.95"),
        )
        result = run(config, progress=progress, quiet=False, json_out=as_json, log_json=False)
    return show_result(result, Path(result.directory), as_json=as_json)
