"""Steps and ramps of a selfbench that nobody ran."""

from __future__ import annotations

from typing import Any

from llmgen.selfbench.conclusions import limit
from llmgen.selfbench.figures import Loop, Placement, Ramp, Step

APART = Placement(client_core=1, server_cores=(0,), shared=False, room=1)
TOGETHER = Placement(client_core=0, server_cores=(0,), shared=True, room=1)
QUIET = (Loop(rate=1000.0, n=1000, p50_us=20.0, p99_us=90.0, ks_distance=0.02),)
NOISY = (Loop(rate=1000.0, n=1000, p50_us=80.0, p99_us=3000.0, ks_distance=0.05),)


def step(rate: float, verdict: str = "valid", client: float = 0.2, server: float = 0.2, **more: Any) -> Step:
    reasons = () if verdict == "valid" else (f"late at {rate:g}",)
    return Step(
        **{
            "rate": rate,
            "tokens": 64,
            "duration_s": 2.0,
            "events_per_request": 66.0,
            "events_per_s": 66 * rate,
            "requests_per_s": rate,
            "verdict": verdict,
            "reasons": reasons,
            "client_share": client,
            "server_share": server,
            "other_share": 0.01,
            "cpu_us_per_event": 8.0,
            "lag_p50_ms": 0.02,
            "lag_p99_ms": 0.1,
            "ks_distance": 0.01,
            "steal_pct": 0.0,
            **more,
        }
    )


def ramp(shape: str, steps: list[Step]) -> Ramp:
    return Ramp(
        protocol="HTTP/1.1",
        shape=shape,  # type: ignore[arg-type]
        steps=tuple(steps),
        limit=limit(steps, shape, QUIET, APART),
    )


def few(rate: float, verdict: str = "valid", client: float = 0.2, **more: Any) -> Step:
    return step(rate, verdict, client, **{"tokens": 1, "events_per_request": 3.0, "events_per_s": 3 * rate, **more})
