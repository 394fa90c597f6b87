"""What reading metrics pages costs the controller: processor time of the scraping threads.

    python benchmarks/telemetry_cost.py [--seconds 10] [--every 0.333] [--engines 1] [--gpus 8] [--cpus 64]

Three pages served by another process: vLLM's with every histogram's buckets at full length, dcgm-exporter's and
node_exporter's of a large machine. Prints the share of a core at that rate, and the time of one page of each.
Target: three endpoints at 3 Hz cost at most 2 % of a core.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

from llmgen.config import RunConfig, Telemetry
from llmgen.telemetry import store
from llmgen.telemetry.prometheus import Endpoint, Page
from llmgen.telemetry.sampling import Sampler

TARGET = 0.02
LABELS = 'engine="{engine}",model_name="meta-llama/Llama-3.1-8B-Instruct"'
HISTOGRAMS = (
    "iteration_tokens_total", "time_to_first_token_seconds", "inter_token_latency_seconds",
    "e2e_request_latency_seconds", "request_time_per_output_token_seconds", "request_queue_time_seconds",
    "request_inference_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
    "request_prompt_tokens", "request_generation_tokens", "request_max_num_generation_tokens", "request_params_n",
    "request_params_max_tokens", "request_prefill_kv_computed_tokens",
)  # fmt: skip
BUCKETS = 24  # about what vLLM's histograms have
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "lora_requests_info")
COUNTERS = ("num_preemptions", "prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens",
            "prompt_tokens_cached", "external_prefix_cache_queries", "external_prefix_cache_hits")  # fmt: skip
MODES = ("idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user")
FIELDS = (
    "SM_CLOCK", "MEM_CLOCK", "MEMORY_TEMP", "GPU_TEMP", "POWER_USAGE", "TOTAL_ENERGY_CONSUMPTION",
    "PCIE_REPLAY_COUNTER", "GPU_UTIL", "MEM_COPY_UTIL", "ENC_UTIL", "DEC_UTIL", "XID_ERRORS", "FB_FREE", "FB_USED",
    "NVLINK_BANDWIDTH_TOTAL", "VGPU_LICENSE_STATUS",
)  # fmt: skip


def vllm_page(step: int, engines: int) -> str:
    lines = []
    for name in GAUGES:
        lines += [f"# HELP vllm:{name} {name}.", f"# TYPE vllm:{name} gauge"]
        lines += [f"vllm:{name}{{{LABELS.format(engine=engine)}}} {step % 50}" for engine in range(engines)]
    for name in COUNTERS:
        lines += [f"# HELP vllm:{name}_total {name}.", f"# TYPE vllm:{name}_total counter"]
        for engine in range(engines):
            lines.append(f"vllm:{name}_total{{{LABELS.format(engine=engine)}}} {step * 1000}.0")
            lines.append(f"vllm:{name}_created{{{LABELS.format(engine=engine)}}} 1.7949230432e+09")
    for name in HISTOGRAMS:
        lines += [f"# HELP vllm:{name} {name}.", f"# TYPE vllm:{name} histogram"]
        for engine in range(engines):
            labels = LABELS.format(engine=engine)
            bounds = [str(0.001 * 2**number) for number in range(BUCKETS - 1)] + ["+Inf"]
            lines += [f'vllm:{name}_bucket{{{labels},le="{le}"}} {step * n}.0' for n, le in enumerate(bounds)]
            lines += [f"vllm:{name}_count{{{labels}}} {step * 23}.0", f"vllm:{name}_sum{{{labels}}} {step * 1.5}"]
    return "\n".join(lines) + "\nprocess_start_time_seconds 1.79e+09\n"


def dcgm_page(step: int, gpus: int) -> str:
    lines = []
    for field in FIELDS:
        lines += [f"# HELP DCGM_FI_DEV_{field} {field}.", f"# TYPE DCGM_FI_DEV_{field} gauge"]
        for gpu in range(gpus):
            labels = (
                f'gpu="{gpu}",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e{gpu:02d}",pci_bus_id="00000000:17:00.0",'
                f'device="nvidia{gpu}",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"'
            )
            lines.append(f"DCGM_FI_DEV_{field}{{{labels}}} {step + gpu}")
    return "\n".join(lines) + "\n"


def node_page(step: int, cpus: int) -> str:
    lines = ["# TYPE node_cpu_seconds_total counter"]
    lines += [
        f'node_cpu_seconds_total{{cpu="{c}",mode="{mode}"}} {step * 0.3 + c}' for c in range(cpus) for mode in MODES
    ]
    for number in range(400):
        lines += [f"# TYPE node_netstat_Thing{number} untyped", f"node_netstat_Thing{number} {step}"]
    lines += ["node_memory_MemTotal_bytes 1e+12", "node_memory_MemAvailable_bytes 5e+11", "node_load1 3.2"]
    return "\n".join(lines) + "\n"


def serve(pipe: Connection, engines: int, gpus: int, cpus: int) -> None:
    """Another process: what a page costs its server is not the controller's."""
    made = {
        "/vllm": [vllm_page(n, engines).encode() for n in range(8)],
        "/dcgm": [dcgm_page(n, gpus).encode() for n in range(8)],
        "/node": [node_page(n, cpus).encode() for n in range(8)],
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        step = 0

        def do_GET(self) -> None:
            Handler.step += 1
            body = made[self.path][Handler.step % 8]
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    pipe.send(server.server_address[1])
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


def one_page(name: str, text: str) -> None:
    page = Page()
    began = time.process_time()
    page.read(text)
    first = time.process_time() - began
    repeats = 50
    began = time.process_time()
    for _ in range(repeats):
        page.read(text)
    again = (time.process_time() - began) / repeats
    lines = text.count("\n")
    print(
        f"{name:5} {lines:5} lines {len(text) / 1e3:6.1f} kB   first {first * 1e3:6.1f} ms, then {again * 1e3:5.2f} ms"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=1 / 3)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--cpus", type=int, default=64)
    options = parser.parse_args()
    one_page("vllm", vllm_page(3, options.engines))
    one_page("dcgm", dcgm_page(3, options.gpus))
    one_page("node", node_page(3, options.cpus))
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(
        target=serve, args=(theirs, options.engines, options.gpus, options.cpus), daemon=True
    )
    server.start()
    try:
        if not ours.poll(10):
            raise SystemExit("the server of the pages did not start")
        port = ours.recv()
        urls = [f"http://127.0.0.1:{port}/{name}" for name in ("vllm", "dcgm", "node")]
        for url in urls:
            Endpoint(url).read(buckets=False, patience_s=10)  # imports and the server's threads are there
        config = RunConfig(telemetry=tuple(Telemetry(url=url, every=options.every) for url in urls))
        with tempfile.TemporaryDirectory() as directory:
            sampler = Sampler(config, Path(directory))
            now = time.monotonic_ns()
            cpu, wall = time.process_time(), time.monotonic()
            sampler.start(now, now, now + round(options.seconds * 1e9))
            time.sleep(options.seconds)
            sampler.stop()
            share = (time.process_time() - cpu) / (time.monotonic() - wall)
            size = (Path(directory) / store.LIVE).stat().st_size
            scrapes = sum(len(source.t) for source in store.read(Path(directory)))
            sampler.finish()
            final = (Path(directory) / store.FINAL).stat().st_size
    finally:
        server.terminate()
        server.join(5)
    minutes = options.seconds / 60
    print(f"{scrapes} scrapes of 3 endpoints in {options.seconds:g} s: {share:.2%} of a core (target {TARGET:.0%})")
    print(
        f"telemetry.jsonl {size / minutes / 1e3:.0f} kB a minute, telemetry.npz {final / minutes / 1e3:.0f} kB a minute"
    )
    return 0 if share <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
