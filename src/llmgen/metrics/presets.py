"""Published service level objectives by name, as expressions of the SLO grammar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llmgen.errors import ConfigError

# MLPerf Inference, limits of the p99 in ms (TTFT, TPOT) of the Server and Interactive scenarios; mlperf.conf.
MLPERF: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "llama2-70b": {"server": (2000, 200), "interactive": (450, 40)},
    "llama3.1-405b": {"server": (6000, 175), "interactive": (4500, 80)},
    "llama3.1-8b": {"server": (2000, 100), "interactive": (500, 30)},
    "mixtral-8x7b": {"server": (2000, 200)},
    "deepseek-r1": {"server": (2000, 80), "interactive": (1500, 15)},
    "gpt-oss-120b": {"server": (3000, 80), "interactive": (2000, 15)},
}


def expand(presets: Iterable[str]) -> tuple[str, ...]:
    """Objectives of presets like ``mlperf:llama2-70b:server``.

    MLPerf issues a query when it is due, so its TTFT is our TTFT from due. Raises ConfigError for an unknown name.
    """
    found: list[str] = []
    for preset in presets:
        limits = names().get(preset)
        if limits is None:
            raise ConfigError(f"slo preset {preset!r}: unknown; known: {', '.join(names())}")
        ttft, tpot = limits
        found += [f"ttft_from_due_p99<={ttft}ms", f"tpot_p99<={tpot}ms"]
    return tuple(found)


def names() -> dict[str, tuple[int, int]]:
    """Every preset and its limits, by name."""
    return {
        f"mlperf:{model}:{scenario}": limits
        for model, scenarios in MLPERF.items()
        for scenario, limits in scenarios.items()
    }
