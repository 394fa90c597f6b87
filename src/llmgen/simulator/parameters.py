"""What the model of an engine can be told, and how it is written: ``PRESET[,KEY=VALUE…]``.

A key is a field of `Parameters`; times are written without the `_ns` of their names and with their units
(``step=8ms``), switches as ``yes`` or ``no``.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmgen.errors import ConfigError

MAX_REPLICAS = 16  # engine.pxd
MAX_DRAFTS = 16
NOISE_VALUES = 4096  # of the steps' noise, drawn beforehand; more than a run notices the repetition of
_UNITS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|µs|ms|s|m|h)")
MAX_TIME_NS = 86400e9  # a day: longer is a mistake


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An engine's step time, limits, cache, queue, replicas and ageing. Times in ns."""

    # A step takes step + prefill · prompt tokens + decode · sequences + context · their context tokens.
    step_ns: float
    prefill_ns: float
    decode_ns: float = 0.0
    context_ns: float = 0.0
    noise: float = 0.0  # coefficient of variation of a step's time (log-normal)
    # Batches.
    max_seqs: int = 256
    max_batched_tokens: int = 8192
    chunk_tokens: int = 0  # most tokens of one prompt in a step; 0: what is left of max_batched_tokens
    chunked: bool = True  # a prompt may be spread over several steps
    # KV cache.
    context_tokens: int = 0  # longest prompt and answer together (400 beyond); 0: what the cache holds
    block_tokens: int = 16
    kv_blocks: int = 0  # of one replica; 0: as many as are wanted
    prefix_cache: bool = True
    # Queue.
    max_waiting: int = 0  # of one replica; another request is refused; 0: any number
    refusal: int = 429  # the status of that
    # Speculation: each step verifies `drafts` tokens, taken as long as they are right.
    drafts: int = 0
    acceptance: float = 0.0  # probability that a drafted token is right, given that those before it are
    draft_ns: float = 0.0  # for each drafted position of a step
    # Start.
    load_ns: float = 0.0  # 503 "Loading model" until then
    warmup_steps: int = 0  # a replica's first steps are slower, the first one warmup_factor times
    warmup_factor: float = 1.0
    # Replicas: each with its own queue and cache; a request goes to the one with the fewest.
    replicas: int = 1
    max_replicas: int = 0  # the autoscaler may order so many in all; 0: no autoscaler
    scale_waiting: float = 4.0  # waiting requests per ready replica at which it orders one more
    scale_period_ns: float = 15e9  # how often it looks
    scale_delay_ns: float = 60e9  # from the order until the replica is ready
    scale_down_ns: float = 0.0  # a replica too many for so long is removed; 0: never
    # Ageing.
    leak_bytes: float = 0.0  # of the server's memory, per finished request (only told by /metrics)
    leak_blocks: float = 0.0  # of the KV cache, per finished request; at most half of it
    ambient_c: float = 30.0
    heat_c: float = 35.0  # above that under full load
    heat_ns: float = 60e9  # time constant of heating and cooling
    throttle_c: float = 0.0  # a hotter GPU is slower; 0: never
    throttle_factor: float = 1.0
    idle_w: float = 70.0
    busy_w: float = 700.0
    gpu_mib: int = 81559  # of one GPU; what an H100 80GB tells
    gpus: int = 1  # of a replica

    def settings(self, seed: int) -> dict[str, Any]:
        """What model.Model takes."""
        values = msgspec.structs.asdict(self)
        for name in ("load_ns", "scale_period_ns", "scale_delay_ns", "scale_down_ns"):
            values[name] = round(values[name])
        values["max_replicas"] = max(self.max_replicas, self.replicas)
        return values | {"seed": seed % 2**64}

    def draw_noise(self, seed: int) -> NDArray[np.float64]:
        """Factors of the steps' times with mean 1; empty without noise."""
        if self.noise == 0:
            return np.empty(0)
        sigma2 = np.log1p(self.noise**2)
        return np.random.default_rng(seed).lognormal(-sigma2 / 2, np.sqrt(sigma2), NOISE_VALUES)


def change(parameters: Parameters, text: str) -> Parameters:
    """`parameters` with ``KEY=VALUE,KEY=VALUE…`` instead; ConfigError for what is unknown or impossible."""
    fields = {field.name.removesuffix("_ns"): field for field in msgspec.structs.fields(Parameters)}
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = item.partition("=")
        if key not in fields or not equals:
            raise ConfigError(f"engine: {item!r} is not KEY=VALUE with a key of {', '.join(sorted(fields))}")
        values[fields[key].name] = _read(key, value, fields[key].name.endswith("_ns"), fields[key].type)
    changed = msgspec.structs.replace(parameters, **values)
    check(changed)
    return changed


def _read(key: str, value: str, is_time: bool, kind: Any) -> float | int | bool:
    if is_time:
        match = _TIME.fullmatch(value)
        if not match and value != "0":
            raise ConfigError(f"engine {key}: {value!r} is not a time; write it with its unit, like 8ms")
        return float(match[1]) * _UNITS[match[2]] if match else 0.0
    if kind is bool:
        if value not in ("yes", "no", "true", "false"):
            raise ConfigError(f"engine {key}: {value!r} is neither yes nor no")
        return value in ("yes", "true")
    try:
        return int(value) if kind is int else float(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"engine {key}: {value!r} is not {what}") from None


# (least, most) of what does not have its bounds elsewhere
_BOUNDS: dict[str, tuple[float, float]] = {
    "max_seqs": (1, 1_000_000),
    "max_batched_tokens": (1, 2**31 - 1),
    "block_tokens": (1, 65536),
    "kv_blocks": (0, 2**30),
    "refusal": (400, 599),
    "drafts": (0, MAX_DRAFTS),
    "acceptance": (0, 1),
    "noise": (0, 2),
    "warmup_factor": (1, 1e6),
    "throttle_factor": (1, 1e6),
    "replicas": (1, MAX_REPLICAS),
    "max_replicas": (0, MAX_REPLICAS),
    "scale_waiting": (1e-3, 1e9),
    "scale_period_ns": (1e6, MAX_TIME_NS),
    "heat_ns": (1e6, MAX_TIME_NS),
    "ambient_c": (-273, 1e6),
    "gpus": (1, 1024),
}


def check(parameters: Parameters) -> None:
    """ConfigError for a value that no engine can have."""
    for name, value in msgspec.structs.asdict(parameters).items():
        if isinstance(value, bool):
            continue
        least, most = _BOUNDS.get(name, (0, MAX_TIME_NS if name.endswith("_ns") else 2**31 - 1))
        if not least <= value <= most:
            raise ConfigError(f"engine {name.removesuffix('_ns')}: {value!r} is not between {least:g} and {most:g}")
    if parameters.step_ns <= 0:
        raise ConfigError("engine step: a step takes more than no time")
    if 0 < parameters.max_replicas < parameters.replicas:
        raise ConfigError(
            f"engine max_replicas: {parameters.max_replicas} is less than the {parameters.replicas} to start"
        )
