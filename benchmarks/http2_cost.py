"""What HTTP/2 costs a worker: against h2load on nghttpd, against our own HTTP/1.1, over TLS, in memory, in requests/s.

    python benchmarks/http2_cost.py [nghttpd] [steps] [tls] [memory] [short] --rounds 3

nghttpd   a static answer of 200 events, 8 connections x 100 streams; llmgen parses, classifies, stamps and records
          every event, h2load only counts bytes. Needs nghttpd and h2load.
steps     `llmgen serve --step 20ms`, 2,000 streams x 50 events/s over 8 connections, one event a DATA frame, against
          the same load over HTTP/1.1
tls       the same over TLS against cleartext
memory    100,000 streams open at once on 100 connections: the worker's own memory (RssAnon) above that of 100 streams
short     answers of one token, streamed: requests a second of one worker's core

Server and client have a core each (--server-core, --client-core).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmgen.simulator import Endpoint, Options

EVENTS = 201  # of the static answer: 200 tokens and the finish


def run(url: str, out: Path, a: argparse.Namespace, *flags: object) -> dict[str, Any]:
    """One llmgen run on the client's core; summary.json with `worker`, the first of run.json's workers_detail."""
    command = [sys.executable, "-m", "llmgen", "run", "--url", url, "--json", "--workers", "1", "--out", str(out)]
    command += ["--input-tokens", "32", *map(str, flags)]
    wanted = ["taskset", "-c", str(a.client_core), *command]
    done = subprocess.run(wanted, capture_output=True, text=True, timeout=300)
    if not done.stdout:
        raise SystemExit(done.stderr)
    summary: dict[str, Any] = json.loads(done.stdout)
    info = json.loads(((out / "latest").resolve() / "run.json").read_text())
    summary["worker"] = info["workers_detail"][0]
    lost = summary["requests"]["scheduled"] - summary["requests"]["succeeded"]
    if lost:
        print("not ok:", lost, summary["requests"])
    return summary


@contextmanager
def nghttpd(a: argparse.Namespace, root: Path) -> Iterator[str]:
    event = (
        'data: {"id":"chatcmpl-7f3c1e0a9b2d4c58","object":"chat.completion.chunk","created":1795493336,"model":"m",'
        '"choices":[{"index":0,"delta":{"content":" word%03d"},"logprobs":null,"finish_reason":null}]}\n\n'
    )
    last = event.replace('{"content":" word%03d"}', "{}").replace('"finish_reason":null', '"finish_reason":"stop"')
    place = root / "v1" / "chat"
    place.mkdir(parents=True)
    (place / "completions").write_text("".join(event % i for i in range(200)) + last + "data: [DONE]\n\n")
    port = 20000 + os.getpid() % 20000
    command = [
        "taskset",
        "-c",
        str(a.server_core),
        "nghttpd",
        "--no-tls",
        "-d",
        str(root),
        "-a",
        "127.0.0.1",
        str(port),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def against_h2load(a: argparse.Namespace, out: Path) -> dict[str, float]:
    if not shutil.which("nghttpd") or not shutil.which("h2load"):
        raise SystemExit("needs nghttpd and h2load (Debian: nghttp2-server, nghttp2-client)")
    with nghttpd(a, out / "root") as url:
        flags = ("--http", "2", "--model", "m", "--connections", 8, "--streams-per-connection", 100)
        told = run(url, out, a, *flags, "--concurrency", 800, "--requests", 20000, "--output-tokens", 200)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["taskset", "-c", str(a.client_core), "h2load", "-n", "20000", "-c", "8", "-m", "100"]
        subprocess.run([*command, f"{url}/v1/chat/completions"], check=True, capture_output=True, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    h2load = spent / (20000 * EVENTS) * 1e6
    ours = told["client"]["cpu_us_per_event"]
    return {"llmgen_us": ours, "h2load_us": h2load, "ratio": ours / h2load, "llmgen_events_per_cpu_s": 1e6 / ours}


STREAMS = ("--concurrency", 2000, "--duration", "8s", "--output-tokens", 200)


def steps(a: argparse.Namespace, out: Path) -> dict[str, float]:
    with Endpoint(Options(ttft="100ms", itl="20ms", step="20ms", cores=str(a.server_core))) as endpoint:
        two = run(endpoint.url, out, a, *STREAMS, "--http", "2", "--connections", 8)["client"]["cpu_us_per_event"]
        one = run(endpoint.url, out, a, *STREAMS)["client"]["cpu_us_per_event"]
    return {"http2_us": two, "http1_us": one, "share": two / one}


def tls(a: argparse.Namespace, out: Path) -> dict[str, float]:
    options = Options(ttft="100ms", itl="20ms", step="20ms", cores=str(a.server_core))
    flags = ("--http", "2", "--connections", 8)
    with Endpoint(options) as endpoint:
        clear = run(endpoint.url, out, a, *STREAMS, *flags)["client"]["cpu_us_per_event"]
    secure = Options(ttft="100ms", itl="20ms", step="20ms", cores=str(a.server_core), tls=True)
    with Endpoint(secure) as endpoint:
        hidden = run(endpoint.url, out, a, *STREAMS, *flags, "--insecure")["client"]["cpu_us_per_event"]
    return {"cleartext_us": clear, "tls_us": hidden, "ratio": hidden / clear}


def memory(a: argparse.Namespace, out: Path) -> dict[str, float]:
    found = {}
    with Endpoint(Options(ttft="8s", itl="1s", output_tokens="3", cores=str(a.server_core))) as endpoint:
        for streams in (100, 100_000):
            flags = ("--http", "2", "--connections", 100, "--concurrency", streams, "--requests", streams)
            told = run(endpoint.url, out, a, *flags, "--output-tokens", 3, "--record", "requests")
            found[streams] = told["worker"]["peak_user_rss_mb"]
            found[-streams] = told["load"]["peak_in_flight"]
    extra = (found[100_000] - found[100]) * 1024 * 1024 / 99_900
    return {"base_mb": found[100], "with_100k_mb": found[100_000], "bytes_a_stream": extra, "peak": found[-100_000]}


def short(a: argparse.Namespace, out: Path) -> dict[str, float]:
    with Endpoint(Options(ttft="1ms", itl="1ms", cores=str(a.server_core))) as endpoint:
        flags = ("--http", "2", "--connections", 8, "--concurrency", 400, "--duration", "6s", "--output-tokens", 1)
        told = run(endpoint.url, out, a, *flags)
    sent = told["requests"]["succeeded"]
    cpu = told["client"]["cpu_s"]
    return {"requests_per_s": sent / 6, "requests_per_cpu_s": sent / cpu, "us_a_request": cpu / sent * 1e6}


CASES: dict[str, Callable[[argparse.Namespace, Path], dict[str, float]]] = {
    "nghttpd": against_h2load,
    "steps": steps,
    "tls": tls,
    "memory": memory,
    "short": short,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    a = parser.parse_args()
    for name in a.cases:
        rows = []
        for _ in range(a.rounds):
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(CASES[name](a, Path(scratch)))
            print(name, {key: round(value, 3) for key, value in rows[-1].items()}, flush=True)
        print(name, "medians", {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]})


if __name__ == "__main__":
    main()
