"""`vllm bench serve`: the Rust client (vllm/vllm-rs in vLLM's wheel, a program that runs alone) and the Python one."""

from __future__ import annotations

import json
import re
import subprocess

from benchmarks.peers import GAP_MS, TOKENS, TTFT_MS, Load, Peer, Percentiles, Told, installed, version_beside


def command(program: str, load: Load) -> list[str]:
    # it is told a number of requests, not a time
    rate = load.rate or load.streams * 1000 / (TTFT_MS + TOKENS * GAP_MS)
    wanted = [program, "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    wanted += ["--base-url", load.url, "--model", "simulated", "--tokenizer", str(load.tokenizer)]
    wanted += ["--dataset-name", "random", "--random-input-len", "32", "--random-output-len", str(TOKENS)]
    wanted += ["--num-prompts", str(max(1, round(rate * load.seconds))), "--disable-tqdm", "--save-result"]
    wanted += ["--seed", str(load.seed)]
    wanted += ["--result-dir", str(load.folder), "--result-filename", "result.json"]
    wanted += ["--percentile-metrics", "ttft,itl", "--metric-percentiles", "50,99"]
    return [*wanted, *(["--request-rate", str(load.rate)] if load.rate else ["--max-concurrency", str(load.streams)])]


def read(load: Load, output: str) -> Told:
    told = json.loads((load.folder / "result.json").read_text())
    ttft = Percentiles(told["median_ttft_ms"], told["p99_ttft_ms"])
    return Told(ttft, Percentiles(told["median_itl_ms"], told["p99_itl_ms"]))


def rust_version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    found = re.search(r"\d[\w.]*", said.stdout)
    return found[0] if found else ""


OFFLINE = {"HF_HUB_OFFLINE": "1"}
PEERS = [
    Peer("vLLM bench, Rust", True, installed("vllm-rs"), rust_version, command, read, OFFLINE),
    Peer("vLLM bench, Python", True, installed("vllm"), version_beside("vllm"), command, read, OFFLINE),
]
