"""What servers call their metrics: each series that llmgen knows, and the metrics that carry it.

Names and types are those that the servers' sources register. A name is written without the ``_total`` that client
libraries add to counters: pages are matched on the whole name, with and without it. For a series that several metrics
of a page carry, the first rule wins: newer names stand before older ones, an engine's before those of what lies before
it. Units are SI (seconds, bytes, joules) and shares of 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from llmgen.decoding import closest

Kind = Literal["gauge", "counter", "histogram", "value"]
Over = Literal["sum", "max", "mean", "min"]


@dataclass(frozen=True, slots=True)
class Series:
    """A series. over: how samples that differ in their labels (engines, ranks, models, servers) become one.

    value: a code that is neither added nor averaged (the last XID). A share of each engine is never added: `max` finds
    the full one.
    """

    kind: Kind
    title: str
    unit: str = ""
    over: Over = "sum"


SERIES: Final[Mapping[str, Series]] = {
    "running": Series("gauge", "running", "requests"),
    "waiting": Series("gauge", "waiting", "requests"),
    "waiting_for_capacity": Series("gauge", "waiting for capacity", "requests"),
    "waiting_deferred": Series("gauge", "deferred", "requests"),
    "kv_usage": Series("gauge", "KV cache in use", "share", "max"),
    "preemptions": Series("counter", "preemptions"),
    "paused": Series("gauge", "paused", "requests"),
    "prefix_queries": Series("counter", "prefix cache queries", "tokens"),
    "prefix_hits": Series("counter", "prefix cache hits", "tokens"),
    "prefix_hit_rate": Series("gauge", "prefix cache hit rate", "share", "mean"),
    "cached_tokens": Series("counter", "prompt tokens from a cache", "tokens"),
    "evicted_tokens": Series("counter", "tokens evicted from the cache", "tokens"),
    "prompt_tokens": Series("counter", "prompt tokens", "tokens"),
    "output_tokens": Series("counter", "output tokens", "tokens"),
    "batch_size": Series("gauge", "batch size", "requests"),
    "batch_tokens": Series("histogram", "tokens an iteration", "tokens"),
    "iterations": Series("counter", "iterations"),
    "finished": Series("counter", "requests finished", "requests"),
    "failed": Series("counter", "requests failed", "requests"),
    "aborted": Series("counter", "requests aborted", "requests"),
    "queue_time": Series("histogram", "queue time", "s"),
    "ttft": Series("histogram", "TTFT", "s"),
    "itl": Series("histogram", "ITL", "s"),
    "e2e": Series("histogram", "E2E", "s"),
    "prefill_time": Series("histogram", "prefill time", "s"),
    "decode_time": Series("histogram", "decode time", "s"),
    "spec_drafted": Series("counter", "draft tokens", "tokens"),
    "spec_accepted": Series("counter", "accepted draft tokens", "tokens"),
    "load_time": Series("gauge", "model load", "s", "max"),
    "cpu_time": Series("counter", "processor time of the process", "s"),
    "rss": Series("gauge", "resident memory of the process", "bytes"),
    "start_time": Series("value", "start of the process", "s", "max"),
    "gpu_util": Series("gauge", "GPU busy", "share", "mean"),
    "gpu_memory_used": Series("gauge", "GPU memory in use", "bytes"),
    "gpu_memory_free": Series("gauge", "GPU memory free", "bytes"),
    "gpu_temperature": Series("gauge", "GPU temperature", "°C", "max"),
    "gpu_memory_temperature": Series("gauge", "GPU memory temperature", "°C", "max"),
    "gpu_power": Series("gauge", "GPU power", "W"),
    "gpu_energy": Series("counter", "GPU energy", "J"),
    "gpu_clock": Series("gauge", "SM clock", "Hz", "mean"),
    "gpu_sm_active": Series("gauge", "SM active", "share", "mean"),
    "gpu_tensor_active": Series("gauge", "tensor pipe active", "share", "mean"),
    "gpu_memory_active": Series("gauge", "GPU memory interface active", "share", "mean"),
    "gpu_throttled": Series("gauge", "throttled by temperature", "share", "max"),
    "gpu_thermal_violation": Series("counter", "throttled by temperature", "s"),
    "gpu_power_violation": Series("counter", "throttled by power", "s"),
    "gpu_xid": Series("value", "last XID", "", "max"),
    "node_cpu_idle": Series("counter", "idle processor time of the node", "s"),
    "node_cpu": Series("counter", "processor time of the node", "s"),
    "node_memory": Series("gauge", "memory of the node", "bytes"),
    "node_memory_available": Series("gauge", "memory available on the node", "bytes"),
    "node_load": Series("gauge", "load average of the node", ""),
}

MAPPED: Final = "map"  # the family of what a configuration maps
PARTS: Final = ("sum", "count")  # of a histogram, as series of their own: "ttft.sum"

# A label that tells GPUs apart, where a page has one: their values stay apart, too.
GPU_LABELS: Final = ("gpu", "gpu_uuid", "UUID")
# Ranks that serve the same requests together: each tells the whole, so they are not added.
RANK_LABELS: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "GPU_I_ID", "GPU_I_PROFILE"})


@dataclass(frozen=True, slots=True)
class Rule:
    """`metric`, of the samples that have all of `labels`, times `scale`, is `series` (or a part of a histogram)."""

    series: str
    metric: str
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    family: str = "other"


def _family(name: str, prefix: str, *rows: tuple[str, str] | tuple[str, str, float]) -> tuple[Rule, ...]:
    """Rules of rows (series, metric[, scale]); a metric may have labels: ``name{label=value}``."""
    rules = []
    for row in rows:
        rules.append(_rule(row[0], prefix + row[1], row[2] if len(row) == 3 else 1.0, name))
    return tuple(rules)


def _rule(series: str, text: str, scale: float, family: str) -> Rule:
    metric, labels = split_metric(text)
    base, _, part = series.partition(".")
    if SERIES[base].kind != "histogram" or part:
        metric = metric.removesuffix("_total")
    return Rule(series, metric, labels, scale, family)


_METRIC: Final = re.compile(r"\s*([A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{([^{}]*)\})?\s*(?:\*\s*([0-9.eE+-]+))?\s*")


def split_metric(text: str) -> tuple[str, dict[str, str]]:
    """``name{a=b,c="d"}`` → name, labels. ValueError."""
    match = _METRIC.fullmatch(text)
    if match is None or match[3] is not None:
        raise ValueError('write a metric\'s name, or NAME{label="value"}')
    labels = {}
    for part in filter(None, (part.strip() for part in (match[2] or "").split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError('labels are written {label="value"}')
        labels[name.strip()] = value.strip().strip('"')
    return match[1], labels


def mapped(series: str, text: str) -> Rule:
    """The rule of an entry of a configuration's `map`: series → ``NAME{label="value"} * FACTOR``. ValueError."""
    base, _, part = series.partition(".")
    known = SERIES.get(base)
    if known is None or (part and (known.kind != "histogram" or part not in PARTS)):
        raise ValueError(f"no such series; {closest(base, SERIES)}")
    match = _METRIC.fullmatch(text)
    if match is None:
        raise ValueError('write a metric\'s name, or NAME{label="value"}, or NAME * FACTOR')
    scale = float(match[3]) if match[3] else 1.0
    return _rule(series, text.rpartition("*")[0] if match[3] else text, scale, MAPPED)


MIB: Final = 1024.0 * 1024.0
PERCENT: Final = 0.01

VLLM: Final = _family(
    "vllm", "vllm:",
    ("running", "num_requests_running"),
    ("waiting", "num_requests_waiting"),
    ("waiting_for_capacity", 'num_requests_waiting_by_reason{reason="capacity"}'),
    ("waiting_deferred", 'num_requests_waiting_by_reason{reason="deferred"}'),
    ("kv_usage", "kv_cache_usage_perc"), ("kv_usage", "gpu_cache_usage_perc"),
    ("preemptions", "num_preemptions"),
    ("prefix_queries", "prefix_cache_queries"), ("prefix_queries", "gpu_prefix_cache_queries"),
    ("prefix_hits", "prefix_cache_hits"), ("prefix_hits", "gpu_prefix_cache_hits"),
    ("prefix_hit_rate", "gpu_prefix_cache_hit_rate"),
    ("cached_tokens", "prompt_tokens_cached"),
    ("prompt_tokens", "prompt_tokens"), ("output_tokens", "generation_tokens"),
    # a histogram in spite of its name
    ("batch_tokens", "iteration_tokens_total"),
    ("finished", "request_success"),
    ("failed", 'request_success{finished_reason="error"}'),
    ("aborted", 'request_success{finished_reason="abort"}'),
    ("queue_time", "request_queue_time_seconds"),
    ("ttft", "time_to_first_token_seconds"),
    ("itl", "inter_token_latency_seconds"), ("itl", "time_per_output_token_seconds"),
    ("e2e", "e2e_request_latency_seconds"),
    ("prefill_time", "request_prefill_time_seconds"), ("decode_time", "request_decode_time_seconds"),
    ("spec_drafted", "spec_decode_num_draft_tokens"), ("spec_accepted", "spec_decode_num_accepted_tokens"),
)  # fmt: skip

SGLANG: Final = _family(
    "sglang", "sglang:",
    ("running", "num_running_reqs"), ("waiting", "num_queue_reqs"),
    ("kv_usage", "token_usage"), ("kv_usage", "full_token_usage"),
    ("preemptions", "num_retracted_requests"),
    ("paused", "num_paused_reqs"),
    # set to 0 by every report of a decode batch: only where no counter tells the cached tokens
    ("prefix_hit_rate", "cache_hit_rate"),
    ("cached_tokens", "cached_tokens"), ("evicted_tokens", "evicted_tokens"),
    ("prompt_tokens", "prompt_tokens"), ("output_tokens", "generation_tokens"),
    ("finished", "num_requests"), ("aborted", "num_aborted_requests"),
    ("queue_time", "queue_time_seconds"),
    ("ttft", "time_to_first_token_seconds"),
    ("itl", "inter_token_latency_seconds"), ("itl", "time_per_output_token_seconds"),
    ("e2e", "e2e_request_latency_seconds"),
    ("load_time", 'startup_time_seconds{phase="load_weight"}'),
    ("load_time", "weight_load_duration_seconds"), ("load_time", "engine_load_weights_time"),
)  # fmt: skip

TGI: Final = _family(
    "tgi", "tgi_",
    ("running", "batch_current_size"), ("waiting", "queue_size"), ("batch_size", "batch_current_size"),
    ("iterations", "batch_inference_count"),
    ("finished", "request_success"), ("failed", "request_failure"),
    ("queue_time", "request_queue_duration"), ("e2e", "request_duration"),
    # no ITL: request_mean_time_per_token_duration divides by tokens what prefill took, too
    ("prompt_tokens", "request_input_length_sum"), ("output_tokens", "request_generated_tokens_sum"),
)  # fmt: skip


def _tensorrt(prefix: str) -> tuple[Rule, ...]:
    """trtllm-serve's own page writes trtllm_ before a name, older versions shown through Dynamo trtllm:."""
    return _family(
        "tensorrt-llm", prefix,
        ("running", "num_requests_running"), ("waiting", "num_requests_waiting"),
        ("kv_usage", "kv_cache_utilization"),
        ("paused", "num_paused_requests"),
        ("prefix_hit_rate", "kv_cache_hit_rate"),
        ("cached_tokens", "prompt_cached_tokens"),
        ("prompt_tokens", "prompt_tokens"), ("output_tokens", "generation_tokens"),
        ("batch_size", "scheduled_batch_size"),
        ("finished", "request_success"), ("failed", "request_error"),
        ("queue_time", "request_queue_time_seconds"),
        ("ttft", "time_to_first_token_seconds"), ("itl", "time_per_output_token_seconds"),
        ("e2e", "e2e_request_latency_seconds"),
        ("prefill_time", "request_prefill_time_seconds"), ("decode_time", "request_decode_time_seconds"),
        ("spec_drafted", "spec_decode_drafted_tokens"), ("spec_accepted", "spec_decode_accepted_tokens"),
    )  # fmt: skip


TRITON: Final = _family(
    "triton", "nv_",
    ("running", 'trt_llm_request_metrics{request_type="active"}'),
    ("running", 'trt_llm_request_metrics{request_type="scheduled"}'),
    ("waiting", 'trt_llm_request_metrics{request_type="waiting"}'), ("waiting", "inference_pending_request_count"),
    ("kv_usage", 'trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}'),
    ("batch_size", 'trt_llm_inflight_batcher_metrics{inflight_batcher_specific_metric="generation_requests"}'),
    ("iterations", "inference_exec_count"),
    ("finished", "inference_request_success"), ("failed", "inference_request_failure"),
    # cumulative microseconds and, beside them, how many requests they are of
    ("queue_time.sum", "inference_queue_duration_us", 1e-6), ("queue_time.count", "inference_request_success"),
    ("e2e.sum", "inference_request_duration_us", 1e-6), ("e2e.count", "inference_request_success"),
    ("ttft", "inference_first_response_histogram_ms", 1e-3),
    ("load_time", "model_load_duration_secs"),
    ("gpu_util", "gpu_utilization"), ("gpu_memory_used", "gpu_memory_used_bytes"), ("gpu_power", "gpu_power_usage"),
    ("gpu_energy", "energy_consumption"),
)  # fmt: skip

LLAMACPP: Final = _family(
    "llama.cpp", "llamacpp:",
    ("running", "requests_processing"), ("waiting", "requests_deferred"),
    ("kv_usage", "kv_cache_usage_ratio"),
    ("prompt_tokens", "prompt_tokens"), ("output_tokens", "tokens_predicted"),
    ("iterations", "n_decode"), ("batch_size", "n_busy_slots_per_decode"),
    ("spec_drafted", "spec_decode_num_draft_tokens"), ("spec_accepted", "spec_decode_num_accepted_tokens"),
)  # fmt: skip

DYNAMO: Final = _family(
    "dynamo", "dynamo_frontend_",
    ("running", "inflight_requests"), ("waiting", "queued_requests"), ("aborted", "disconnected_clients"),
    ("ttft", "time_to_first_token_seconds"), ("itl", "inter_token_latency_seconds"),
    ("e2e", "request_duration_seconds"),
    ("finished", "requests"), ("output_tokens", "output_tokens"),
)  # fmt: skip

DCGM: Final = _family(
    "dcgm", "DCGM_",
    ("gpu_util", "FI_DEV_GPU_UTIL", PERCENT),
    ("gpu_memory_used", "FI_DEV_FB_USED", MIB), ("gpu_memory_free", "FI_DEV_FB_FREE", MIB),
    ("gpu_temperature", "FI_DEV_GPU_TEMP"), ("gpu_memory_temperature", "FI_DEV_MEMORY_TEMP"),
    ("gpu_power", "FI_DEV_POWER_USAGE"), ("gpu_energy", "FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1e-3),
    ("gpu_clock", "FI_DEV_SM_CLOCK", 1e6),
    ("gpu_sm_active", "FI_PROF_SM_ACTIVE"), ("gpu_sm_active", "FI_PROF_GR_ENGINE_ACTIVE"),
    ("gpu_tensor_active", "FI_PROF_PIPE_TENSOR_ACTIVE"), ("gpu_memory_active", "FI_PROF_DRAM_ACTIVE"),
    ("gpu_thermal_violation", "FI_DEV_THERMAL_VIOLATION", 1e-9),
    ("gpu_power_violation", "FI_DEV_POWER_VIOLATION", 1e-9),
    # the value of the last one, not how many there were
    ("gpu_xid", "FI_DEV_XID_ERRORS"),
)  # fmt: skip

NODE: Final = _family(
    "node", "node_",
    ("node_cpu_idle", 'cpu_seconds{mode="idle"}'), ("node_cpu", "cpu_seconds"),
    ("node_memory", "memory_MemTotal_bytes"), ("node_memory_available", "memory_MemAvailable_bytes"),
    ("node_load", "load1"),
)  # fmt: skip

PROCESS: Final = _family(
    "process", "process_",
    ("cpu_time", "cpu_seconds"), ("rss", "resident_memory_bytes"), ("start_time", "start_time_seconds"),
)  # fmt: skip

RULES: Final = (
    *VLLM, *SGLANG, *TGI, *_tensorrt("trtllm_"), *_tensorrt("trtllm:"), *TRITON, *LLAMACPP, *DYNAMO,
    *DCGM, *NODE, *PROCESS,
)  # fmt: skip

EXPORTERS: Final = frozenset({"dcgm", "node", "nvml"})  # they tell of others; their own process is not the server's

# DCGM's "no value": blanks of 64-bit and 32-bit integers and of doubles, each followed by not found, not supported and
# not permitted (dcgm_structs.h). The 64-bit ones are one double.
DCGM_BLANKS: Final = (9223372036854775792.0, 2147483632.0, 140737488355328.0)


def is_blank(value: float) -> bool:
    """Whether a DCGM value says that there is none."""
    return value >= DCGM_BLANKS[0] or any(blank <= value <= blank + 3 for blank in DCGM_BLANKS[1:])
