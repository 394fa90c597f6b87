"""llmgen beside other load generators: the same paced server, what each tool costs and how true its figures are.

    python -m benchmarks.compare                      a round of everything that is installed
    python -m benchmarks.compare --rounds 3 --only llmgen,wrk
    python -m benchmarks.compare --rate 0             closed loop: so many streams at once

The server is `llmgen serve` on a core of its own: 200 tokens an answer, one event a write, the first after 100 ms, then
one every 20 ms. It logs when each request arrived (the kernel's stamp) and when each event was written: what a tool
reported is held against the log of its own run. The tools run one after the other on the other cores (--client-cores).
They are found on PATH or by LLMGEN_PEER_NAME=/path/to/command; peers/ has one file a tool.

load, all  CPU in µs an event, all processes of the tool: from the first request to the last event; the whole command
MB         proportional set size of all its processes, the highest
TTFT, gap  ms, the tool's percentile, and how far it lies above or below the true one of that run
arrivals   requests/s as they came to the server; closed: the tool keeps its streams up and knows no arrivals
KS         distance of the gaps between arrivals from an exponential distribution of their mean
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import (
    GAP_MS,
    TOKENS,
    TTFT_MS,
    Load,
    Peer,
    Percentiles,
    Told,
    aiperf,
    c_client,
    guidellm,
    h2load,
    llmgen,
    vllm,
    wrk,
)
from benchmarks.peers.tokenizer import write_tokenizer
from benchmarks.processes import Finished, watched
from llmgen.report.escaping import plain
from llmgen.simulator import Endpoint, Options
from llmgen.simulator.truth import Truth, gaps, read_truth, timing

PEERS: list[Peer] = [peer for file in (llmgen, c_client, wrk, h2load, vllm, aiperf, guidellm) for peer in file.PEERS]
ANSWER_S = (TTFT_MS + TOKENS * GAP_MS) / 1000
START_AND_END_S = 240  # a Python tool of many processes, on a busy machine, with its report
PROBE_S, PROBE_STEPS = 1.0, 20  # a first request that such silence follows was a look at the server, not load
PAIRS = ("ttft_p50", "ttft_p99", "gap_p50", "gap_p99")


class Logged(NamedTuple):
    """The server's log of one run."""

    start_ns: int
    end_ns: int
    begun: int
    answered: int
    events: int
    ttft: Percentiles
    gap: Percentiles
    mean_gap: Percentiles  # of the means of requests
    rate: float
    ks: float


def percentiles(ns: np.ndarray) -> Percentiles:
    return Percentiles(*(float(value) / 1e6 for value in np.percentile(ns, [50, 99])))


def logged(truth: Truth, from_s: float) -> Logged:
    """`from_s`: times count so long after the first request."""
    arrivals = np.sort(truth.requests["t"])
    silence = max(PROBE_S * 1e9, PROBE_STEPS * np.median(np.diff(arrivals))) if len(arrivals) > 1 else 0
    while len(arrivals) > 1 and arrivals[1] - arrivals[0] > silence:
        arrivals = arrivals[1:]
    if len(arrivals) < 2:
        raise ValueError("no load arrived at the server")
    begin = arrivals[0] + round(from_s * 1e9)
    times = timing(truth)
    counted = times.first_token >= begin
    several = counted & (times.tokens > 1)
    step = np.sort(np.diff(arrivals))
    expected, rank = 1 - np.exp(-step / step.mean()), np.arange(len(step) + 1) / len(step)
    return Logged(
        start_ns=int(arrivals[0]),
        end_ns=int(truth.writes["t"].max()),
        begun=len(arrivals),
        answered=int(np.count_nonzero(truth.ends["detail"] == 0)),
        events=int(truth.writes["events"].sum()),
        ttft=percentiles(times.ttft[counted]),
        gap=percentiles(gaps(truth._replace(writes=truth.writes[truth.writes["t"] >= begin]))),
        mean_gap=percentiles((times.last_token - times.first_token)[several] / (times.tokens[several] - 1)),
        rate=float(1e9 / step.mean()),
        ks=float(max((rank[1:] - expected).max(), (expected - rank[:-1]).max())),
    )


def figures(peer: Peer, told: Told, log: Logged, done: Finished) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cpu_us_load": done.cpu_between(log.start_ns, log.end_ns) / log.events * 1e6,
        "cpu_us_all": done.cpu_s / log.events * 1e6,
        "peak_mb": done.peak_mb,
        "events": log.events,
        "begun": log.begun,
        "answered": log.answered,
    }
    if told.verdict:
        found["verdict"] = told.verdict
    if peer.open_loop:
        found |= {"rate": log.rate, "ks": log.ks}
    true_gap = log.mean_gap if told.gap_is_mean else log.gap
    for name, theirs, true in (("ttft", told.ttft, log.ttft), ("gap", told.gap, true_gap)):
        if theirs is not None:
            found |= {f"{name}_p50": theirs.p50, f"{name}_p99": theirs.p99}
            found |= {f"{name}_p50_error": theirs.p50 - true.p50, f"{name}_p99_error": theirs.p99 - true.p99}
    return found


def measure(peer: Peer, program: str, a: argparse.Namespace, tokenizer: Path, seed: int) -> dict[str, Any]:
    """One run against a server of its own: figures, or {"error": text}."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, truth = Path(scratch) / "tool", Path(scratch) / "truth"
        folder.mkdir()
        options = Options(ttft=f"{TTFT_MS}ms", itl=f"{GAP_MS}ms", cores=str(a.server_core), truth=str(truth))
        with Endpoint(options) as endpoint:
            load = Load(endpoint.url, a.streams, a.rate, a.seconds, folder, tokenizer, seed)
            environment = {**os.environ, **peer.environment}
            command = peer.command(program, load)
            done = watched(command, a.client_cores, environment, folder, a.seconds + ANSWER_S + START_AND_END_S)
        if done.code is None:
            return {"error": f"not done {ANSWER_S + START_AND_END_S:.0f} s after the load's end; ended"}
        try:
            told = peer.read(load, done.output)
            return figures(peer, told, logged(read_truth(truth), told.from_s), done)
        except Exception as error:  # whatever a foreign file makes of it is the row's text
            lines = [line for line in (done.errors + done.output).splitlines() if line.strip()]
            last = f"; it said: {lines[-1].strip()}" if lines else ""
            return {"error": plain(f"exit code {done.code}, no figures ({type(error).__name__}: {error}){last}", 300)}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds that gave figures."""
    good = [row for row in rounds if "error" not in row]
    if not good:
        return rounds[-1]
    keys = [key for key in good[0] if key != "verdict" and all(key in row for row in good)]
    return {key: statistics.median(row[key] for row in good) for key in keys}


NAME = 24
HEADINGS = ("load", "all", "MB", "TTFT p50", "TTFT p99", "gap p50", "gap p99", "arrivals", "KS")
WIDTHS = (6, 7, 7, 13, 15, 11, 13, 9, 7)


def cells(row: dict[str, Any], closed: bool) -> list[str]:
    told = [
        f"{row[key]:,.1f} {row[f'{key}_error']:+,.1f}".replace("-0.0", "+0.0") if key in row else "-" for key in PAIRS
    ]
    arrivals = ["closed", ""] if closed else [f"{row['rate']:.1f}/s", f"{row['ks']:.3f}"]
    return [f"{row['cpu_us_load']:.1f}", f"{row['cpu_us_all']:.1f}", f"{row['peak_mb']:,.0f}", *told, *arrivals]


def line(name: str, texts: Sequence[str]) -> str:
    return (f"{name:{NAME}}" + "".join(f"{text:>{w}}" for text, w in zip(texts, WIDTHS, strict=True))).rstrip()


def table(results: dict[str, list[dict[str, Any]]], absent: list[str], titles: dict[str, str], rate: float) -> str:
    lines = [line("", HEADINGS)]
    notes = []
    by_name = {peer.name: peer for peer in PEERS}
    for name, rounds in results.items():
        row = summary(rounds)
        if "error" in row:
            lines.append(f"{titles[name]:{NAME}}  {row['error']}")
            continue
        lines.append(line(titles[name], cells(row, closed=not rate or not by_name[name].open_loop)))
        said = Counter(one["verdict"].partition(";")[0] for one in rounds if "verdict" in one)
        if said:
            notes.append(f"{name} called its runs: {', '.join(f'{word} {n}' for word, n in said.items())}")
        failed = sum("error" in one for one in rounds)
        notes += [f"{name}: {failed} of {len(rounds)} rounds gave no figures"] if failed else []
    lines += [f"{name:{NAME}}  not installed" for name in absent]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def cores(text: str) -> list[int]:
    """`1,3-5` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def arguments() -> argparse.Namespace:
    have = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200, help="answers under way at a time (200)")
    parser.add_argument("--rate", type=float, help="requests/s, Poisson; 0: closed loop (as many as keep --streams up)")
    parser.add_argument("--seconds", type=float, default=15, help="length of the load (15)")
    parser.add_argument("--rounds", type=int, default=1, help="of every tool, in turn; medians are printed (1)")
    parser.add_argument("--only", help="names, with commas between them; the beginning is enough")
    parser.add_argument("--json", action="store_true", help="every round's figures as JSON instead of the table")
    parser.add_argument("--server-core", type=int, default=have[0])
    parser.add_argument("--client-cores", type=cores, default=have[1:] or have, help="e.g. 1,3-5 (all others)")
    a = parser.parse_args()
    if a.streams < 1 or a.rounds < 1 or a.seconds <= 0 or (a.rate or 0) < 0:
        parser.error("--streams and --rounds are at least 1, --seconds is above 0, --rate is not negative")
    a.rate = round(a.streams / ANSWER_S, 1) if a.rate is None else a.rate
    return a


def chosen(only: str | None) -> list[Peer]:
    if not only:
        return PEERS
    wanted = [word.strip().lower() for word in only.split(",")]
    found = [peer for peer in PEERS if any(peer.name.lower().startswith(word) for word in wanted)]
    if not found:
        raise SystemExit(f"--only {only}: no such tool; there are {', '.join(peer.name for peer in PEERS)}")
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    a = arguments()
    programs = [(peer, peer.find()) for peer in chosen(a.only)]
    absent = [peer.name for peer, program in programs if program is None]
    there = [(peer, program) for peer, program in programs if program is not None]
    titles = {peer.name: f"{peer.name} {peer.version(program)}".strip() for peer, program in there}
    results: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer, _ in there}
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = write_tokenizer(Path(scratch) / "tokenizer")
        for number in range(a.rounds):
            for peer, program in there:
                say(f"round {number + 1} of {a.rounds}: {titles[peer.name]}")
                results[peer.name].append(measure(peer, program, a, tokenizer, number + 1))
    load = f"Poisson {a.rate:g} requests/s" if a.rate else f"closed loop, {a.streams} streams"
    about = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "load": f"{load} for {a.seconds:g} s, {TOKENS} tokens an answer; true TTFT {TTFT_MS} ms, gap {GAP_MS} ms",
        "rounds": a.rounds,
    }
    if a.json:
        print(json.dumps({**about, "versions": titles, "not_installed": absent, "rounds_of": results}, indent=2))
        return
    rounds = f"medians of {a.rounds} rounds" if a.rounds > 1 else "one round"
    print(f"{about['load']}\n{rounds}, {about['machine']}, {about['date']}\n")
    print(table(results, absent, titles, a.rate))


if __name__ == "__main__":
    main()
