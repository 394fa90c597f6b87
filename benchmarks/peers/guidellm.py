"""GuideLLM: `pip install guidellm[recommended]` in an environment of its own.

Its inter-token latency is the mean of a request, not the time between two tokens.
"""

from __future__ import annotations

import json

from benchmarks.peers import TOKENS, Load, Peer, Percentiles, Told, installed, version_beside


def command(program: str, load: Load) -> list[str]:
    profile = f"kind=poisson,rate={load.rate}" if load.rate else f"kind=concurrent,streams={load.streams}"
    options = {
        "backend": f"kind=openai_http,target={load.url},model=simulated,request_format=/v1/chat/completions",
        "profile": profile,
        "constraint": f"kind=max_duration,seconds={load.seconds}",
        "tokenizer": f"kind=huggingface_auto,model={load.tokenizer}",
        "data": f"kind=synthetic_text,prompt_tokens=32,output_tokens={TOKENS}",
        "seed": f"kind=static,value={load.seed}",
        "output": f"kind=json,path={load.folder / 'result.json'}",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [program, "run", *flags, "--disable-console-interactive"]


def read(load: Load, output: str) -> Told:
    told = json.loads((load.folder / "result.json").read_text())["benchmarks"][0]["metrics"]
    ttft, gap = (
        told[f"{name}_ms"]["successful"]["percentiles"] for name in ("time_to_first_token", "inter_token_latency")
    )
    return Told(Percentiles(ttft["p50"], ttft["p99"]), Percentiles(gap["p50"], gap["p99"]), gap_is_mean=True)


ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}
PEERS = [Peer("GuideLLM", True, installed("guidellm"), version_beside("guidellm"), command, read, ENVIRONMENT)]
