"""CPU per event of two workers against one, held against the same ratio of two C clients, in the same minutes.

Each client has the same load (--streams answers under way at 50 events/s, HTTP/1.1, one event a write) whether it is
alone or one of two, and a core of its own; on two cores the second shares its core with the server, which costs the C
client and llmgen alike and is why only the ratio of the ratios says something about llmgen: a lock or a cache line that
workers share would show in it. Rounds take the four measurements in turn, every other round in the reverse order.

    python benchmarks/scaling.py --streams 400 --seconds 6 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from llmgen import machine
from llmgen.simulator import Endpoint, Options

LIMITS = Path(__file__).parent / "limits"
TOKENS = 200
TTFT_S, GAP_S = 0.1, 0.02
ANSWER_S = TTFT_S + TOKENS * GAP_S  # C clients begin evenly over it, as llmgen's requests do: one wake serves one
RATIO = 1.05  # the target


def endpoint(a: argparse.Namespace) -> Endpoint:
    return Endpoint(Options(ttft=f"{TTFT_S}s", itl=f"{GAP_S}s", cores=str(a.server_core)))


def c_clients(a: argparse.Namespace, count: int) -> float:
    """µs of CPU an event, of all clients' events."""
    with endpoint(a) as server:
        command = [str(LIMITS / "sse_client"), "-p", server.url.rpartition(":")[2], "-c", str(a.streams)]
        command += ["-n", str(TOKENS), "-t", str(a.seconds), "-r", str(ANSWER_S), "-k"]
        clients = [
            subprocess.Popen(
                [*command, "-o", str(core)],
                stdout=subprocess.PIPE,
                start_new_session=True,  # with our niceness, as llmgen's workers have
                preexec_fn=machine.carry_niceness,
            )
            for core in a.client_cores[:count]
        ]
        told = [json.loads(client.communicate(timeout=a.seconds + 60)[0]) for client in clients]
    return 1e6 * sum(one["user_s"] + one["sys_s"] for one in told) / sum(one["events"] for one in told)


def llmgen(a: argparse.Namespace, count: int) -> float:
    """µs of CPU an event, of all workers' events."""
    rate = count * a.streams / ANSWER_S
    cores = ",".join(map(str, a.client_cores[:count]))
    with endpoint(a) as server, tempfile.TemporaryDirectory() as out:
        command = ["taskset", "-c", cores, sys.executable, "-m", "llmgen", "run", "--url", server.url]
        command += ["--arrival", "constant", "--rate", f"{rate:.3f}", "--duration", f"{a.seconds + 4}s"]
        command += ["--input-tokens", "32", "--output-tokens", str(TOKENS), "--workers", str(count), "--out", out]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=a.seconds + 120)
        if done.returncode not in (0, 4):
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return float(json.loads(done.stdout)["client"]["cpu_us_per_event"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=400, help="of each client")
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-cores", type=int, nargs=2, default=[1, 0], metavar="CORE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds and the medians")
    a = parser.parse_args()
    subprocess.run(["make", "-s", "-C", str(LIMITS)], check=True)
    rows = []
    for number in range(a.rounds):
        steps = {
            "c_1": partial(c_clients, a, 1),
            "llmgen_1": partial(llmgen, a, 1),
            "c_2": partial(c_clients, a, 2),
            "llmgen_2": partial(llmgen, a, 2),
        }
        row = {name: steps[name]() for name in (steps if number % 2 == 0 else reversed(steps))}
        row["c_ratio"] = row["c_2"] / row["c_1"]
        row["llmgen_ratio"] = row["llmgen_2"] / row["llmgen_1"]
        row["ratio"] = row["llmgen_ratio"] / row["c_ratio"]
        rows.append(row)
        print(number, {name: round(row[name], 3) for name in sorted(row)}, flush=True)
    medians = {name: round(statistics.median(row[name] for row in rows), 4) for name in sorted(rows[0])}
    print("medians", medians)
    print(f"two workers against one, over two C clients against one: {medians['ratio']:.3f} (target {RATIO})")
    if a.json:
        a.json.write_text(json.dumps({"rounds": rows, "medians": medians}, indent=1) + "\n")
    return 0 if medians["ratio"] <= RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
