"""Engines to practise on. The numbers of the `llama-…` ones are derived from public data, the others are invented.

Derivation (a roofline): a decode step reads all weights and the context's KV cache once from the GPUs' memory, a prompt
token costs two floating-point operations a weight. From the data sheets (NVIDIA): H100 SXM 80 GB, 3.35 TB/s,
989 TFLOPS dense BF16, 700 W; L4 24 GB, 300 GB/s, 121 TFLOPS dense BF16, 72 W. From the model cards (Meta, Llama 3.1):
8B has 8.03e9 weights, 32 layers, 8 KV heads of 128; 70B has 70.6e9 weights, 80 layers, 8 KV heads of 128; BF16, so two
bytes each. Engine limits as vLLM v1 has them by default (256 sequences, 16 tokens a block, 90 % of the memory).
Assumed, not measured: 70 % of the bandwidth and 50 % of the operations are reached, 4 GB a GPU go to activations and
the runtime, and each sequence costs DECODE_NS of the host's time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from llmgen.errors import ConfigError
from llmgen.simulator.parameters import Parameters, change, check

BANDWIDTH_REACHED: Final = 0.7
OPERATIONS_REACHED: Final = 0.5
MEMORY_SHARE: Final = 0.9  # vLLM's gpu_memory_utilization
RUNTIME_BYTES: Final = 4e9
DECODE_NS: Final = 10e3
BLOCK_TOKENS: Final = 16
BYTES: Final = 2  # of a BF16 number


class _Gpu(NamedTuple):
    memory: float  # bytes
    bandwidth: float  # bytes/s
    operations: float  # dense BF16, 1/s
    watts: float
    mib: int


class _Shape(NamedTuple):
    weights: float
    layers: int
    kv_heads: int
    head: int


H100 = _Gpu(80e9, 3.35e12, 989e12, 700, 81559)
L4 = _Gpu(24e9, 300e9, 121e12, 72, 23034)
LLAMA_8B = _Shape(8.03e9, 32, 8, 128)
LLAMA_70B = _Shape(70.6e9, 80, 8, 128)


def roofline(gpu: _Gpu, gpus: int, model: _Shape, max_batched_tokens: int, context_tokens: int) -> Parameters:
    """The engine of a model on `gpus` GPUs, tensor-parallel and without losses between them."""
    kv_bytes = 2 * model.layers * model.kv_heads * model.head * BYTES
    weights = model.weights * BYTES
    room = gpus * (gpu.memory * MEMORY_SHARE - RUNTIME_BYTES) - weights
    bandwidth = gpus * gpu.bandwidth * BANDWIDTH_REACHED
    return Parameters(
        step_ns=weights / bandwidth * 1e9,
        prefill_ns=2 * model.weights / (gpus * gpu.operations * OPERATIONS_REACHED) * 1e9,
        decode_ns=DECODE_NS,
        context_ns=kv_bytes / bandwidth * 1e9,
        noise=0.03,
        max_seqs=256,
        max_batched_tokens=max_batched_tokens,
        context_tokens=context_tokens,
        block_tokens=BLOCK_TOKENS,
        kv_blocks=int(room / kv_bytes / BLOCK_TOKENS),
        warmup_steps=20,
        warmup_factor=4.0,
        idle_w=gpu.watts / 10,
        busy_w=gpu.watts,
        gpu_mib=gpu.mib,
        gpus=gpus,
    )


# For tests and first steps: fast, small, and its limits are near. Invented.
_TINY = Parameters(
    step_ns=4e6,
    prefill_ns=20e3,
    decode_ns=50e3,
    max_seqs=16,
    max_batched_tokens=512,
    context_tokens=4096,
    kv_blocks=1024,
    max_waiting=64,
    idle_w=20,
    busy_w=150,
    gpu_mib=24576,
)
_8B_H100 = roofline(H100, 1, LLAMA_8B, 8192, 32768)
_8B_L4 = roofline(L4, 1, LLAMA_8B, 2048, 16384)
_70B_4H100 = roofline(H100, 4, LLAMA_70B, 8192, 32768)

PRESETS: Final[dict[str, tuple[Parameters, str]]] = {
    "tiny": (_TINY, "fast and small: 16 sequences, 64 may wait (invented)"),
    "llama-8b-h100": (_8B_H100, "Llama 3.1 8B on an H100 (derived from data sheets)"),
    "llama-8b-l4": (_8B_L4, "Llama 3.1 8B on an L4, whose KV cache is small (derived from data sheets)"),
    "llama-70b-4xh100": (_70B_4H100, "Llama 3.1 70B on four H100 (derived from data sheets)"),
    "speculative": (
        change(_8B_H100, "drafts=3,acceptance=0.7,draft=600us"),
        "llama-8b-h100 with three drafted tokens a step (drafting invented)",
    ),
    "autoscaled": (
        change(
            _TINY,
            "max_replicas=4,scale_waiting=8,scale_period=1s,scale_delay=5s,scale_down=30s,"
            "warmup_steps=50,warmup_factor=5",
        ),
        "tiny with one to four replicas, 5 s from the order to ready (invented)",
    ),
    "cold": (
        change(_TINY, "load=10s,warmup_steps=50,warmup_factor=20"),
        "tiny that loads for 10 s and is slow at first (invented)",
    ),
    "ageing": (
        change(_TINY, "leak_bytes=200000,leak_blocks=0.05,heat_c=50,heat=120s,throttle_c=75,throttle_factor=1.3"),
        "tiny that leaks memory and KV blocks, and throttles at 75 °C (invented)",
    ),
}


def read(text: str) -> Parameters:
    """``PRESET[,KEY=VALUE…]``; ConfigError."""
    name, _, changes = text.partition(",")
    if name not in PRESETS:
        raise ConfigError(f"engine: no preset {name!r}; there are {', '.join(PRESETS)}")
    return change(PRESETS[name][0], changes)


for _parameters, _ in PRESETS.values():
    check(_parameters)  # a mistake above shows at the import
