"""What a run's tokens and requests cost, at the user's prices; none is built in."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmgen.metrics.figures import Cost, Throughput
from llmgen.metrics.measurements import Measurements


def cost_of(m: Measurements, throughput: Throughput) -> Cost | None:
    """Cost of N GPUs at P an hour, also of *good* tokens and requests, and of tokens at the prices of a hosted API.

    N·P/(3600·tokens_per_s)·10⁶ for a million output tokens, N·P/(3.6·requests_per_s) for a thousand requests; hosted:
    prices of a million input, cached and output tokens.
    Of the window. None without prices; a figure is None where its rate is 0 or nobody told the tokens.
    """
    prices: dict[str, Any] = (m.run.info.get("config") or {}).get("prices") or {}
    hourly = prices.get("gpu_hour")
    if hourly is not None:
        hourly *= prices.get("gpus") or 1
    good_tokens = None
    if m.good is not None:
        good_tokens = float(m.tokens_inside[m.good].sum()) / m.duration_s
    tokens = _tokens_total(m, prices)
    if hourly is None and tokens is None:
        return None
    scheduled_ok = int(np.count_nonzero(m.inside & m.ok))
    good = None if m.good is None else int(np.count_nonzero(m.inside & m.good))
    return Cost(
        per_million_output_tokens=_per(hourly, throughput.output_tokens_per_s, 1e6),
        per_thousand_requests=_per(hourly, throughput.requests_per_s, 1e3),
        per_million_good_output_tokens=_per(hourly, good_tokens, 1e6),
        per_thousand_good_requests=_per(hourly, throughput.goodput_requests_per_s, 1e3),
        tokens_total=tokens,
        tokens_per_thousand_requests=_share(tokens, scheduled_ok),
        tokens_per_thousand_good_requests=_share(tokens, good),
    )


def _per(hourly: float | None, per_s: float | None, units: float) -> float | None:
    return hourly / 3600 / per_s * units if hourly is not None and per_s else None


def _share(total: float | None, requests: int | None) -> float | None:
    return total / requests * 1e3 if total is not None and requests else None


def _tokens_total(m: Measurements, prices: dict[str, Any]) -> float | None:
    """Price of the tokens of the window's requests that the server told, failed ones too if it told them."""
    per_million = {name: prices.get(f"{name}_per_million") for name in ("input", "cached", "output")}
    if all(price is None for price in per_million.values()):
        return None
    r = m.requests
    told = {name: np.maximum(r[f"{name}_tokens"][m.inside].astype(np.int64), 0) for name in per_million}
    cached = np.minimum(told["cached"], told["input"])
    price_in = per_million["input"] or 0.0
    # cached tokens are part of the input; without a price of their own they cost what the others do
    price_cached = price_in if per_million["cached"] is None else per_million["cached"]
    total = (told["input"] - cached).sum() * price_in + cached.sum() * price_cached
    total += told["output"].sum() * (per_million["output"] or 0.0)
    return float(total) / 1e6
