"""`llmgen serve`: the embedded endpoint."""

from __future__ import annotations

from typing import Any

import click


class ServeCommand(click.Command):
    """Its help ends in the engines and faults that the simulator knows; looked up only when asked for."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from llmgen.simulator.faults import FAULTS, SETTINGS
        from llmgen.simulator.presets import PRESETS

        with formatter.section("Engines (--engine PRESET[,KEY=VALUE...], keys in docs/simulator.md)"):
            formatter.write_dl([(name, text) for name, (_, text) in PRESETS.items()])
        with formatter.section("Faults (--fault NAME:PROBABILITY, at most one a request)"):
            formatter.write_dl([("CODE", "answers with this status, 300 to 599, like 429:0.05"), *FAULTS.items()])
        with formatter.section("Settings (--fault NAME:TIME)"):
            formatter.write_dl([*SETTINGS.items()])
        super().format_epilog(ctx, formatter)


@click.command(
    "serve",
    cls=ServeCommand,
    short_help="The embedded endpoint, with known times and faults.",
    epilog="""\b
Examples:
  llmgen serve --port 8000
  llmgen serve --ttft lognormal:200ms,80ms --itl 15ms --fault 503:0.01
  llmgen serve --step 20ms --slots 256 --truth truth.log
  llmgen serve --engine llama-8b-h100,max_waiting=100,load=20s
\b
D is a value or a distribution: 20ms, uniform:10ms,30ms, normal:20ms,5ms,
lognormal:100ms,40ms, exponential:20ms; counts the same way without units.
It serves until Ctrl-C.""",
)
@click.option("--host", metavar="HOST", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, metavar="N", help="Port to listen on.  [default: a free one]")
@click.option("--unix", metavar="PATH", help="Listen on a unix socket instead.")
@click.option("--ttft", metavar="D", default="100ms", show_default=True, help="From request to first token.")
@click.option("--itl", metavar="D", default="20ms", show_default=True, help="From one event to the next.")
@click.option("--output-tokens", metavar="D", help="Length of answers.  "
              "[default: as many as the request allows]")  # fmt: skip
@click.option("--tokens-per-event", metavar="D", default="1", show_default=True, help="Tokens in one event.")
@click.option("--step", metavar="T", default="0", show_default=True, help="All running answers emit together every T, "
              "as engines do; 0: each on its own time.")  # fmt: skip
@click.option("--slots", metavar="N", default=0, help="Answers that run at once; others wait.  [default: any number]")
@click.option("--engine", metavar="PRESET", help="A model of a continuous-batching engine has the times, instead of "
              "--ttft, --itl and --tokens-per-event, and /metrics and /dcgm/metrics. See below.")  # fmt: skip
@click.option("--prefix-blocks", metavar="N", default=0, help="Count what blocks of N words prompts share with "
              "earlier ones, as a prefix cache without a limit would; told in usage and /metrics.")  # fmt: skip
@click.option("--fault", metavar="NAME:P", multiple=True, help="What goes wrong, and how often. Repeatable; see below.")
@click.option("--seed", metavar="N", default=1, show_default=True, help="Same seed, same times and faults.")
@click.option("--cores", metavar="LIST", help="Cores to run on, like 0 or 2-3; one sending thread each.")
@click.option("--truth", metavar="FILE", help="Log arrivals and writes there, to hold a client's claims against.")
@click.option("--http", type=click.Choice(["1.1", "2", "both"]), default="both", show_default=True, help="Protocols.")
@click.option("--tls", is_flag=True, help="Speak TLS.")
@click.option("--cert", metavar="FILE", help="Its certificate.  [default: a self-signed one for localhost]")
@click.option("--key", metavar="FILE", help="The certificate's private key.")
@click.option("--write-cert", metavar="FILE", help="Write the self-signed certificate there, for clients to trust.")
@click.option("--client-ca", metavar="FILE", help="Clients must show a certificate of this authority.")
@click.option("--model", "models", metavar="NAME", multiple=True,
              help="Model served. Repeatable.  [default: any]")  # fmt: skip
def serve_command(**flags: Any) -> int:
    """An LLM endpoint that never computes, but whose times are known.

    OpenAI's chat, completions, responses, embeddings and models, Anthropic's messages, Ollama's chat. It counts the
    words of a prompt as its tokens and emits one word a token. Prints one line with its URL once it listens.
    """
    from llmgen.simulator import Options, serve

    return serve(Options(**flags))
