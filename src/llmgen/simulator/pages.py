"""The engine's metrics in the Prometheus text format: under vLLM v1's names, and as dcgm-exporter tells a GPU's.

Names, types, help texts and bucket bounds as in vllm/v1/metrics/loggers.py and dcgm-exporter's default-counters.csv,
as far as the model knows the quantity. What the process' memory and a GPU's clock would be is made up from what the
model does know, and said so below.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any, Final

from llmgen.simulator.model import Model
from llmgen.simulator.parameters import Parameters

ENGINE_PAGE, GPU_PAGE = 0, 1  # route.pyx
# Made up: what a Python server with a loaded model keeps in host memory, and clocks of a data-centre GPU in MHz.
HOST_BYTES: Final = 2.5e9
SM_CLOCK_MHZ: Final = 1980
MEMORY_CLOCK_MHZ: Final = 2619
MEMORY_SHARE: Final = 0.9  # of a GPU's memory that the server takes at its start, as vLLM does

_GAUGES = {
    "num_requests_running": ("Number of requests in model execution batches.", "running"),
    "num_requests_waiting": ("Number of requests waiting to be processed.", "waiting"),
    "kv_cache_usage_perc": ("KV-cache usage. 1 means 100 percent usage.", "kv_usage"),
}
_COUNTERS = {
    "num_preemptions": ("Cumulative number of preemption from the engine.", "preemptions"),
    "prefix_cache_queries": ("Prefix cache queries, in terms of number of queried tokens.", "prefix_queries"),
    "prefix_cache_hits": ("Prefix cache hits, in terms of number of cached tokens.", "prefix_hits"),
    "prompt_tokens": ("Number of prefill tokens processed.", "prompt_tokens"),
    "generation_tokens": ("Number of generation tokens processed.", "generation_tokens"),
}
_DRAFTS = {
    "spec_decode_num_drafts": ("Number of spec decoding drafts.", "drafts"),
    "spec_decode_num_draft_tokens": ("Number of draft tokens.", "drafted_tokens"),
    "spec_decode_num_accepted_tokens": ("Number of accepted tokens.", "accepted_tokens"),
}
_HISTOGRAMS = {
    "iteration_tokens_total": ("Histogram of number of tokens per engine_step.", "iteration_tokens"),
    "time_to_first_token_seconds": ("Histogram of time to first token in seconds.", "first_token_time"),
    "inter_token_latency_seconds": ("Histogram of inter-token latency in seconds.", "token_gap"),
    "e2e_request_latency_seconds": ("Histogram of e2e request latency in seconds.", "request_time"),
    "request_queue_time_seconds": ("Histogram of time spent in WAITING phase for request.", "queue_time"),
    "request_prefill_time_seconds": ("Histogram of time spent in PREFILL phase for request.", "prefill_time"),
    "request_decode_time_seconds": ("Histogram of time spent in DECODE phase for request.", "decode_time"),
    "request_prompt_tokens": ("Number of prefill tokens processed.", "prompt_size"),
    "request_generation_tokens": ("Number of generation tokens processed.", "answer_size"),
}
_REASONS = {"stop": "stopped", "length": "at_length", "abort": "aborted"}


class Pages:
    """Called with a page's number, gives its bytes; on the thread that drives the model."""

    def __init__(self, model: Model, parameters: Parameters, model_name: str) -> None:
        self._model = model
        self._parameters = parameters
        self._name = _escaped(model_name)
        self._started = time.time()

    def __call__(self, page: int) -> bytes:
        snapshot = self._model.snapshot(time.monotonic_ns())
        lines = self._engine(snapshot) if page == ENGINE_PAGE else self._gpus(snapshot)
        return ("\n".join(lines) + "\n").encode()

    def _engine(self, snapshot: dict[str, Any]) -> list[str]:
        replicas = list(enumerate(snapshot["replicas"]))
        labels = {number: f'engine="{number}",model_name="{self._name}"' for number, _ in replicas}
        serving = [(number, r) for number, r in replicas if r["state"] in ("ready", "draining")]
        lines: list[str] = []
        for name, (text, key) in _GAUGES.items():
            lines += _family(f"vllm:{name}", "gauge", text, ((labels[n], r[key]) for n, r in serving))
        counters = _COUNTERS | (_DRAFTS if self._parameters.drafts else {})
        for name, (text, key) in counters.items():
            lines += _family(f"vllm:{name}_total", "counter", text, ((labels[n], r[key]) for n, r in replicas))
        finished = (
            (f'{labels[n]},finished_reason="{reason}"', r[key]) for n, r in replicas for reason, key in _REASONS.items()
        )
        lines += _family("vllm:request_success_total", "counter", "Count of successfully processed requests.", finished)
        for name, (text, key) in _HISTOGRAMS.items():
            lines += _head(f"vllm:{name}", "histogram", text)
            for number, r in replicas:
                lines += _histogram(f"vllm:{name}", labels[number], r[key])
        info = f'block_size="{self._parameters.block_tokens}",num_gpu_blocks="{self._parameters.kv_blocks}"'
        caching = f'enable_prefix_caching="{self._parameters.prefix_cache}"'
        rows = ((f'{caching},engine="{n}",{info}', 1) for n, _ in replicas)
        lines += _family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig", rows)
        return lines + self._process(snapshot)

    def _process(self, snapshot: dict[str, Any]) -> list[str]:
        """What prometheus_client tells of the process; its memory is made up, with the engine's leak."""
        finished = sum(r["stopped"] + r["at_length"] for r in snapshot["replicas"])
        memory = HOST_BYTES + self._parameters.leak_bytes * finished
        times = os.times()
        return [
            *_family(
                "process_start_time_seconds",
                "gauge",
                "Start time of the process since unix epoch in seconds.",
                [("", self._started)],
            ),
            *_family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", [("", memory)]),
            *_family(
                "process_cpu_seconds_total",
                "counter",
                "Total user and system CPU time spent in seconds.",
                [("", times.user + times.system)],
            ),
        ]

    def _gpus(self, snapshot: dict[str, Any]) -> list[str]:
        """One row a GPU; the GPUs of a replica do the same."""
        p = self._parameters
        names = {
            "DCGM_FI_DEV_SM_CLOCK": ("gauge", "SM clock frequency (in MHz)."),
            "DCGM_FI_DEV_MEM_CLOCK": ("gauge", "Memory clock frequency (in MHz)."),
            "DCGM_FI_DEV_GPU_TEMP": ("gauge", "GPU temperature (in C)."),
            "DCGM_FI_DEV_POWER_USAGE": ("gauge", "Power draw (in W)."),
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("counter", "Total energy consumption since boot (in mJ)."),
            "DCGM_FI_DEV_GPU_UTIL": ("gauge", "GPU utilization (in %)."),
            "DCGM_FI_DEV_XID_ERRORS": ("gauge", "Value of the last XID error encountered."),
            "DCGM_FI_DEV_FB_FREE": ("gauge", "Framebuffer memory free (in MiB)."),
            "DCGM_FI_DEV_FB_USED": ("gauge", "Framebuffer memory used (in MiB)."),
        }
        rows: dict[str, list[tuple[str, float]]] = {name: [] for name in names}
        for number, r in enumerate(snapshot["replicas"]):
            if r["state"] == "absent":
                continue
            used = round(p.gpu_mib * MEMORY_SHARE) if r["state"] != "loading" else 0
            figures = {
                "DCGM_FI_DEV_SM_CLOCK": round(SM_CLOCK_MHZ / (p.throttle_factor if r["throttled"] else 1)),
                "DCGM_FI_DEV_MEM_CLOCK": MEMORY_CLOCK_MHZ,
                "DCGM_FI_DEV_GPU_TEMP": round(r["temperature"]),
                "DCGM_FI_DEV_POWER_USAGE": round(p.idle_w + (p.busy_w - p.idle_w) * r["load"], 3),
                "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": round(r["energy_j"] * 1000),
                "DCGM_FI_DEV_GPU_UTIL": round(r["utilisation"] * 100),
                "DCGM_FI_DEV_XID_ERRORS": 0,
                "DCGM_FI_DEV_FB_FREE": p.gpu_mib - used,
                "DCGM_FI_DEV_FB_USED": used,
            }
            for gpu in range(number * p.gpus, (number + 1) * p.gpus):
                label = f'gpu="{gpu}",UUID="GPU-00000000-0000-0000-0000-{gpu:012d}",device="nvidia{gpu}"'
                label += ',modelName="llmgen simulated",Hostname="simulated"'
                for name, value in figures.items():
                    rows[name].append((label, value))
        return [line for name, (kind, text) in names.items() for line in _family(name, kind, text, rows[name])]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    """As prometheus_client writes it."""
    return repr(float(value))


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _family(name: str, kind: str, text: str, rows: Iterable[tuple[str, float]]) -> list[str]:
    """Help, type and one line a row of (labels, value)."""
    return _head(name, kind, text) + [
        f"{name}{{{label}}} {_number(value)}" if label else f"{name} {_number(value)}" for label, value in rows
    ]


def _histogram(name: str, label: str, h: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    below = 0
    for bound, count in zip([*h["bounds"], float("inf")], h["counts"], strict=True):
        below += count
        le = "+Inf" if bound == float("inf") else _number(bound)
        lines.append(f'{name}_bucket{{{label},le="{le}"}} {_number(below)}')
    return [*lines, f"{name}_count{{{label}}} {_number(h['count'])}", f"{name}_sum{{{label}}} {_number(h['sum'])}"]
