"""`llmgen run`: every flag is a key of the configuration (config.FLAGS), and wins over the file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from llmgen.cli.options import (
    AUTO,
    Auto,
    Json,
    SectionedCommand,
    SectionedOption,
    Value,
    headers,
    listed,
    numbers,
    pages,
    pairs,
)
from llmgen.cli.report import PROFILES, show_result
from llmgen.cli.suite import show_suite
from llmgen.config import FLAGS, RunConfig, load_config, merge
from llmgen.decoding import Cut, Seconds
from llmgen.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

SECONDS = Value("T", Seconds)
TARGET, LOAD, WORKLOAD, CLIENT = "Target", "Load (when)", "Workload (what)", "Client"
RECORD, OUTPUT = "Goals and records", "Output"

KEY_OF_FLAG = {flag: key for key, flag in FLAGS.items()}


def flag(section: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """An option of the configuration. Its default is that of config.py and stands in the help text only."""
    return click.option(*names, cls=SectionedOption, section=section, **settings)


target = functools.partial(flag, TARGET)
load = functools.partial(flag, LOAD)
workload = functools.partial(flag, WORKLOAD)
client = functools.partial(flag, CLIENT)
record = functools.partial(flag, RECORD)
output = functools.partial(flag, OUTPUT)


@click.command(
    "run",
    short_help="Offer load to an endpoint and report.",
    cls=SectionedCommand,
    epilog="""\b
Examples:
  llmgen run --url http://127.0.0.1:8000/v1
  llmgen run --url http://gpu:8000 --rate 20 --duration 2m --warmup 20s
  llmgen run --url http://gpu:8000 --rate 5..50 --slo 'ttft_p95<800ms'
  llmgen run --url https://api.example/v1 --model m --concurrency 8
  llmgen run --url http://gpu:8000 --trace conv.csv --trace-scale 2
  llmgen run --url http://gpu:8000 --mix chat --rate 5
  llmgen run load.yaml --rate 40 --tag build=1234
\b
Durations: 250ms 60s 5m 1h. Quote objectives: the shell takes < for itself.
Proxy variables of the environment are ignored.
Exit codes: 0 done, 1 bug, 2 usage or configuration, 3 an objective missed,
4 invalid or incomplete, 5 target unreachable or nothing succeeded,
130 interrupted.""",
)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@target("--url", multiple=True, metavar="URL", help="Server: http://, https:// or unix:/path.sock; without a path, or "
        "ending in /v1, the API's endpoint is appended. Repeat for one cluster of several.")  # fmt: skip
@target("--api", metavar="NAME", help="API: chat, completions, responses, messages (Anthropic), ollama or "
        "embeddings; custom is described in the file.  [default: chat]")  # fmt: skip
@target("--model", metavar="NAME", help="Model, or weighted list a:3,b:1.  [default: first of /v1/models]")
@target("--path", metavar="P", help="Path of the endpoint, instead of the URL's and the API's.")
@target("--query", multiple=True, metavar="K=V", callback=pairs, help="Query parameter. Repeatable.")
@target("--header", multiple=True, metavar="'K: V'", callback=headers,
        help="Header. V may be env:NAME or @file, and must be for a credential. Repeatable.")  # fmt: skip
@target("--api-key-env", metavar="NAME", help="Variable with the API key.  [default: OPENAI_API_KEY, "
        "ANTHROPIC_API_KEY for messages, if set]")  # fmt: skip
@target("--api-key-command", metavar="CMD", help="Command that prints the API key.")
@target("--http", metavar="auto|1.1|2", help="Protocol. auto: ALPN on https, 1.1 on http; 2 on http is prior "
        "knowledge.  [default: auto]")  # fmt: skip
@target("--balance", metavar="HOW", help="Over several URLs: round-robin, random or least-in-flight.  "
        "[default: round-robin]")  # fmt: skip
@target("--no-sticky", is_flag=True, help="Over several URLs: balance every turn of a session by itself.  [default: a "
        "session stays with the target of its first turn]")  # fmt: skip
@target("--connect-to", metavar="HOST:PORT", help="Connect there instead of to the URL's host.")
@target("--insecure", is_flag=True, help="Do not verify the server's certificate; the report says so.")
@target("--ca", metavar="FILE", help="Certificates to trust, instead of the system's.")
@target("--cert", metavar="FILE", help="Client certificate.")
@target("--key", metavar="FILE", help="Its private key.")
@load("--arrival", metavar="NAME", help="constant, poisson, gamma:CV, weibull:SHAPE, onoff:ON,OFF, "
      "mmpp:RATIO,HIGH,LOW or closed.  [default: poisson]")  # fmt: skip
@load("--rate", metavar="R", help="Requests per second over all workers; A..B ramps; inf: all "
      "at once.  [default: 1]")  # fmt: skip
@load("--concurrency", type=int, metavar="N", help="Closed loop of N slots, each sending when its answer has ended.")
@load("--duration", type=SECONDS, help="Length of the offered load, warm-up and cool-down included.  [default: 30s, "
      "if neither this nor --requests nor --trace is given]")  # fmt: skip
@load("--requests", type=int, metavar="N", help="Number of requests; with --duration, whichever ends first.")
@load("--warmup", type=Value("T|%", Cut), help="Cut from the start of the measured window.  [default: 0s]")
@load("--cooldown", type=Value("T|%", Cut), help="Cut from its end.  [default: 0s]")
@load("--drain", type=SECONDS, help="How long answers are awaited after the last due time.  [default: 30s]")
@load("--normalize", is_flag=True, help="Scale the schedule so that exactly rate × duration requests come.")
@load("--trace", metavar="FILE", help="Replay times and lengths of a recorded workload.")
@load("--trace-format", metavar="NAME", help="Its format; llmgen trace --help lists them.  [default: its first line "
      "tells]")  # fmt: skip
@load("--trace-scale", type=float, metavar="X", help="Divide its times by X: 2 is twice as fast.  [default: 1]")
@load("--trace-rate-scale", type=float, metavar="X", help="X times as many requests in the same time, by leaving out "
      "or repeating.  [default: 1]")  # fmt: skip
@load("--trace-jitter", metavar="J", help="Spread rows of one time: uniform:quantum or uniform:T.  [default: none]")
@load("--trace-window", metavar="A..B", help="Only this part of the trace's own time.")
@load("--trace-loop", is_flag=True, help="Begin again at its end.")
@load("--trace-turns", metavar="after|timed", help="Later turns of its conversations wait for the answers before them, "
      "or go by their times alone.  [default: after]")  # fmt: skip
@workload("--mix", metavar="NAME", help="Ready-made mix: chat, summarise, extract, codegen, agent or rag.")
@workload("--input-tokens", metavar="D", help="Prompt length: a number, uniform:A,B normal:M,S lognormal:M,S "
          "zipf:A,MAX or file:F.  [default: 128]")  # fmt: skip
@workload("--output-tokens", metavar="D", help="Answer length, likewise.  [default: 128]")
@workload("--prefix-tokens", type=int, metavar="N", help="Prompts begin with N tokens that they share.")
@workload("--prefix-pool", type=int, metavar="N", help="Number of such beginnings.  [default: 1]")
@workload("--data", metavar="FILE", help="Prompts from this file.")
@workload("--data-format", metavar="NAME", help="messages, sharegpt, text, csv or parquet.  [default: its name tells]")
@workload("--tokenizer", metavar="WHAT", help="Exact prompt lengths: server, or a tokenizer.json or its folder.  "
          "[default: words]")  # fmt: skip
@workload("--body", type=Json(), help="Merged last into every body, like '{\"temperature\": 0}'.")
@workload("--exact-output", is_flag=True, help="Ask servers that can for exactly that many tokens.")
@workload("--continuous-usage", is_flag=True, help="Ask vLLM and SGLang for the tokens so far in every event (chat, "
          "completions).")  # fmt: skip
@workload("--max-tokens-field", metavar="NAME", help="Field of the body for the answer length.  [default: the API's]")
@workload("--no-stream", is_flag=True, help="Ask for whole answers.")
@client("--workers", type=Auto(), metavar="N|auto", help="Sending processes; auto: as few as the plan needs.  "
        "[default: auto]")  # fmt: skip
@client("--connections", type=int, metavar="N", help="At most N; waiting for one is recorded.  [default: as needed]")
@client("--streams-per-connection", type=int, metavar="N", help="On HTTP/2, at most N.  [default: the server's limit]")
@client("--preconnect", type=int, metavar="N", help="Open N connections before the start.  [default: 0]")
@client("--source-address", multiple=True, metavar="A[,B]", callback=listed, help="Local addresses to connect from, in "
        "turn: each has its own ephemeral ports. Repeatable.  [default: the system's choice]")  # fmt: skip
@client("--timeout-connect", type=SECONDS, help="For TCP and TLS.  [default: 10s]")
@client("--timeout-first-token", type=SECONDS, help="From send to first token.  [default: 2m]")
@client("--timeout-idle", type=SECONDS, help="Between events.  [default: 1m]")
@client("--timeout-total", type=SECONDS, help="From due to end.  [default: 10m]")
@client("--patience", type=SECONDS, help="Abandon a stream without a first token this long after it was due; it counts "
        "as a miss.  [default: wait]")  # fmt: skip
@client("--stamps", metavar="kernel|user", help="Where an arriving byte is stamped.  [default: kernel]")
@client("--spin", type=SECONDS, help="Spin this long before each due time, at most 10ms.  [default: 0s]")
@client("--no-pin", is_flag=True, help="Do not pin workers to cores.")
@client("--http2-engine", metavar="native|h2", help="h2: an independent, slow codec to compare with.  "
        "[default: native]")  # fmt: skip
@client("--resend-unprocessed", is_flag=True, help="HTTP/2: send what GOAWAY or REFUSED_STREAM left unprocessed once "
        "more; its due time is kept, the record flagged.")  # fmt: skip
@client("--retries", type=int, metavar="N", help="Up to N further attempts after a connection error, 429 or 503; "
        "Retry-After is honoured, latency counts from the first due time.  [default: 0]")  # fmt: skip
@client("--traceparent", is_flag=True, help="Send a W3C trace context with each request.")
@client("--abort-on", metavar="EXPR", help="Stop at 'error_rate>50% for 10s' or 'in_flight>2000 for 30s'.")
@record("--slo", multiple=True, metavar="EXPR", help="Objective like 'ttft_p95<800ms', 'goodput>=0.99' or, on each "
        "request, 'ttft<1s'. Repeatable.")  # fmt: skip
@record("--slo-preset", multiple=True, metavar="NAME", help="Published objectives: mlperf:MODEL:server or "
        "mlperf:MODEL:interactive, like mlperf:llama2-70b:server. Repeatable.")  # fmt: skip
@record("--verdict", multiple=True, metavar="K=V", callback=numbers, help="When this run is suspect or invalid, like "
        "suspect_lag_ms=5; docs/configuration.md lists them. Repeatable.")  # fmt: skip
@record("--telemetry", multiple=True, metavar="URL", callback=pages, help="Metrics page of the server, of "
        "dcgm-exporter or node_exporter, read during the run. Repeatable.")  # fmt: skip
@record("--gpu", metavar="local", help="Read the GPUs of this machine during the run.")
@record("--record", metavar="LEVEL", help="events: every token; requests: every request.  [default: events]")
@record("--keep-bodies", is_flag=True, help="Keep request and answer bodies in the run directory.")
@record("--max-cost", type=float, metavar="X", help="Refuse a run that would cost more by the prices in the file.")
@record("--repeat", type=int, metavar="N", help="Run N times (each cell of a matrix) as a suite; started again it "
        "resumes.  [default: 3 with a matrix, else 1]")  # fmt: skip
@record("--seed", type=int, metavar="N", help="Same seed, same times and bodies.  [default: 1]")
@record("--name", metavar="S", help="Name of the run, part of its folder's.")
@record("--tag", multiple=True, metavar="K=V", callback=pairs, help="Kept with the run. Repeatable.")
@record("--note", metavar="S", help="Kept with the run.")
@record("--out", metavar="DIR", help="Folder of runs; DIR/latest points to the newest.  [default: runs]")
@output("--progress/--no-progress", default=None, help="Live view.  [default: if stderr is a terminal]")
@output("--quiet", is_flag=True, help="No live view and no report.")
@output("--json", "as_json", is_flag=True, help="summary.json on stdout instead of the report.")
@output("--metrics-as", metavar="NAME", type=click.Choice(PROFILES), help="Also by the definitions of another tool: "
        "vllm, aiperf, guidellm, inference-perf or mlperf.")  # fmt: skip
@output("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Objectives as JUnit XML, for CI systems.")
@output("--listen-metrics", metavar="HOST:PORT", help="Let Prometheus read the counters during the run, at "
        "http://HOST:PORT/metrics. Without a host: loopback.")  # fmt: skip
@output("--log-json", is_flag=True, help="Logs as JSON lines on stderr.")
@click.pass_context
def run_command(ctx: click.Context, /, config: Path | None, **_: Any) -> int:
    """Offer load to an endpoint, record every token, report.

    CONFIG is a YAML, TOML or JSON file; flags win over it. A bare --url offers 1 request/s for 30 s. With a `matrix:`
    in it, every combination of its levels runs several times, and the report tells what each factor changes.
    """
    start = RunConfig() if config is None else load_config(config)
    merged = merge(start, given_keys(ctx))
    from llmgen.run import run
    from llmgen.suite import is_suite, run_suite

    shown = ctx.params
    settings = {
        "progress": shown["progress"],
        "quiet": shown["quiet"],
        "json_out": shown["as_json"],
        "log_json": shown["log_json"],
    }
    if is_suite(merged):
        refuse_for_suites(shown)
        suite = run_suite(merged, **settings)
        show_suite(suite.directory, as_json=shown["as_json"], quiet=shown["quiet"])
        return suite.exit_code
    result = run(merged, **settings, listen_metrics=shown["listen_metrics"])
    return show_result(
        result,
        Path(result.directory),
        as_json=shown["as_json"],
        quiet=shown["quiet"],
        metrics_as=shown["metrics_as"],
        junit=shown["junit"],
    )


def refuse_for_suites(shown: dict[str, Any]) -> None:
    """What belongs to one run."""
    for name, flag in (("metrics_as", "--metrics-as"), ("junit", "--junit"), ("listen_metrics", "--listen-metrics")):
        if shown[name] is not None:
            raise ConfigError(f"{flag}: is for a single run; llmgen report and compare take each run of a suite")


def given_keys(ctx: click.Context) -> dict[str, Any]:
    """The configuration keys of the flags that stand on the command line."""
    found = {}
    for param in ctx.command.params:
        key = KEY_OF_FLAG.get(param.opts[0])
        if key is None or param.name is None or ctx.get_parameter_source(param.name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[param.name]
        negated = param.opts[0].startswith("--no-")
        found[key] = None if value is AUTO else not value if negated else value
    return found
