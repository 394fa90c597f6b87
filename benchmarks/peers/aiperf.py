"""AIPerf (NVIDIA): `pip install aiperf` in an environment of its own."""

from __future__ import annotations

import json

from benchmarks.peers import TOKENS, Load, Peer, Percentiles, Told, installed, version_beside

GRACE_S = 30  # for the answers that are under way at the end


def command(program: str, load: Load) -> list[str]:
    wanted = [program, "profile", "-m", "simulated", "--url", load.url, "--endpoint-type", "chat", "--streaming"]
    wanted += ["--tokenizer", str(load.tokenizer), "--use-server-token-count"]
    wanted += ["--random-seed", str(load.seed)]
    wanted += ["--prompt-input-tokens-mean", "32", "--prompt-output-tokens-mean", str(TOKENS)]
    wanted += ["--benchmark-duration", str(load.seconds), "--benchmark-grace-period", str(GRACE_S)]
    wanted += ["--artifact-dir", str(load.folder), "--ui-type", "none", "--no-gpu-telemetry", "--no-server-metrics"]
    if load.rate:
        return [*wanted, "--request-rate", str(load.rate), "--arrival-pattern", "poisson"]
    return [*wanted, "--concurrency", str(load.streams)]


def read(load: Load, output: str) -> Told:
    told = json.loads((load.folder / "profile_export_aiperf.json").read_text())
    ttft, gap = told["time_to_first_token"], told["inter_chunk_latency"]
    return Told(Percentiles(ttft["p50"], ttft["p99"]), Percentiles(gap["p50"], gap["p99"]))


# Not HF_HUB_OFFLINE: with it, 0.13.0 takes a tokenizer's folder for a name at the hub.
PEERS = [Peer("AIPerf", True, installed("aiperf"), version_beside("aiperf"), command, read)]
