"""Memory of one worker with 10,000 HTTP/1.1 connections streaming at once, against the same worker with 10.

    python benchmarks/connection_memory.py --connections 10000

Each answer is 20 tokens half a second apart, so that all connections stream together; what counts is the worker's own
memory (RssAnon), looked at every second. The base is all of the process: interpreter, libraries, buffers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmgen.simulator import Endpoint, Options


def run(url: str, out: Path, connections: int, core: int) -> dict[str, Any]:
    command = [
        "taskset",
        "-c",
        str(core),
        sys.executable,
        "-m",
        "llmgen",
        "run",
        "--url",
        url,
        "--out",
        str(out),
        "--json",
    ]
    command += ["--concurrency", str(connections), "--duration", "12s", "--output-tokens", "20", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    summary = json.loads(done.stdout)
    info = json.loads(((out / "latest").resolve() / "run.json").read_text())
    worker = info["workers_detail"][0]
    return {
        "base_mb": worker["peak_rss_mb"],
        "own_mb": worker["peak_user_rss_mb"],
        "in_flight": summary["load"]["peak_in_flight"],
        "not_ok": summary["requests"]["scheduled"] - summary["requests"]["succeeded"],
        "us_an_event": summary["client"]["cpu_us_per_event"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    a = parser.parse_args()
    options = Options(ttft="1s", itl="500ms", cores=str(a.server_core))
    with Endpoint(options) as endpoint, tempfile.TemporaryDirectory() as scratch:
        few = run(endpoint.url, Path(scratch), 10, a.client_core)
        many = run(endpoint.url, Path(scratch), a.connections, a.client_core)
    extra = (many["own_mb"] - few["own_mb"]) * 1024 / (a.connections - 10)
    print("with 10:", few)
    print(f"with {a.connections}:", many)
    print(f"{extra:.2f} KiB a connection")


if __name__ == "__main__":
    main()
