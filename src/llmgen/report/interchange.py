"""Runs in the files of other tools: Parquet, one row a request; and the JSON that `vllm bench serve` writes."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from llmgen.errors import ConfigError
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.profiles import vllm_values
from llmgen.records import Run
from llmgen.report.export import Blocks

TEXTS: Final = frozenset({"label", "class", "target", "status", "finish_reason", "output_source", "flags"})
VLLM_PERCENTILES: Final = (50, 90, 95, 99)
VLLM_METRICS: Final = ("ttft", "tpot", "itl", "e2el")


# -- Parquet ----------------------------------------------------------------------------------------------------------


def write_parquet(found: Blocks, path: Path, run_id: str) -> int:
    """All requests as one row group a block; returns how many. Raises ConfigError without pyarrow (extra `parquet`)."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("--format parquet needs pyarrow: pip install 'llmgen[parquet]'") from None
    writer, count = None, 0
    metadata = {"llmgen.run_id": run_id, "llmgen.schema": "llmgen.export/1"}
    try:
        for columns in found:
            schema = pa.schema([(name, _arrow_type(pa, name)) for name in columns], metadata=metadata)
            table = pa.table(
                {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}, schema
            )
            if writer is None:
                writer = pq.ParquetWriter(path, schema, compression="zstd")
            writer.write_table(table)
            count += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return count


def _arrow_type(pa: Any, name: str) -> Any:
    return pa.string() if name in TEXTS else pa.float64() if name.endswith("_ms") else pa.int64()


# -- vllm bench serve -------------------------------------------------------------------------------------------------


def vllm_json(run: Run) -> bytes:
    """The result file of `vllm bench serve` (without --save-detailed) for this run, by its definitions.

    Of the window's requests, as if the window were its benchmark: duration is from the window's start to the last end.
    """
    m = Measurements(run)
    r, config = m.requests, run.info.get("config") or {}
    ok, load = m.inside & m.ok, config.get("load") or {}
    ended = r["end"][m.inside]
    duration = max((int(ended.max(initial=m.span[0])) - m.span[0]) / 1e9, 1e-9)
    inputs = int(np.maximum(r["input_tokens"][ok].astype(np.int64), 0).sum())
    outputs = int(np.maximum(r["output_tokens"][ok].astype(np.int64), 0).sum())
    completed = int(np.count_nonzero(ok))
    started = datetime.datetime.fromtimestamp((run.info.get("start_realtime_ns") or 0) / 1e9, datetime.UTC)
    api = str((config.get("target") or {}).get("api") or "chat")
    document: dict[str, Any] = {
        "date": started.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": "openai-chat" if api == "chat" else "openai",
        "backend": "openai-chat" if api == "chat" else "openai",
        "label": run.info.get("name"),
        "model_id": run.info.get("model"),
        "tokenizer_id": run.info.get("model"),
        "num_prompts": int(np.count_nonzero(m.inside)),
        **{str(key): value for key, value in (run.info.get("tags") or {}).items()},
        "request_rate": _rate(run, load),
        "burstiness": _burstiness(str(load.get("arrival") or "poisson")),
        "max_concurrency": load.get("concurrency"),
        "duration": duration,
        "completed": completed,
        "failed": int(np.count_nonzero(m.inside)) - completed,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": completed / duration,
        "request_goodput": None if m.good is None else int(np.count_nonzero(m.good & m.inside)) / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        "max_output_tokens_per_s": float(run.timeline["tokens"].max(initial=0)),
        "max_concurrent_requests": m.peak_in_flight,
    }
    values = vllm_values(m)
    for metric in VLLM_METRICS:
        document |= _statistics(metric, values.get(metric))
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _rate(run: Run, load: dict[str, Any]) -> float | str:
    """Requests/s asked for; "inf" all at once and in a closed loop, as there."""
    if load.get("concurrency") is not None or load.get("rate") == "inf":
        return "inf"
    offered = (run.info.get("schedule") or {}).get("offered_rate")
    return float(load.get("rate") or offered or math.inf) if load.get("rate") or offered else "inf"


def _burstiness(arrival: str) -> float:
    """Shape of gamma gaps: 1 / CV²; 1 is Poisson. Constant gaps have none that is finite: inf is null in JSON."""
    name, _, cv = arrival.partition(":")
    return 1 / float(cv) ** 2 if name == "gamma" and cv else math.inf if name == "constant" else 1.0


def _statistics(metric: str, values: np.ndarray | None) -> dict[str, float]:
    """Its names: mean, median, std and percentiles in ms; 0 without values, as there."""
    if values is None or not len(values):
        values = np.zeros(1)
    ms = values.astype(np.float64) / 1e6
    found = {f"mean_{metric}_ms": float(ms.mean()), f"median_{metric}_ms": float(np.median(ms))}
    found[f"std_{metric}_ms"] = float(ms.std())
    for percent, value in zip(VLLM_PERCENTILES, np.percentile(ms, VLLM_PERCENTILES), strict=True):
        found[f"p{percent}_{metric}_ms"] = float(value)
    return found
