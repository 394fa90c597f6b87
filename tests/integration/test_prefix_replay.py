"""A replayed Mooncake trace meets the trace's own prefix reuse at the server, which counts words of the bodies it got.

The endpoint keeps every block of 512 words from a prompt's arrival on and never forgets one.
"""

from __future__ import annotations

import urllib.request
from pathlib import Path

import numpy as np
import pytest

import llmgen
from running import check_run, configuration, statuses

DATA = Path(__file__).parents[3] / "shared" / "data"
BLOCK = 512


def replay(serve, out: Path, name: str, rows: int | None, scale: float) -> tuple[np.ndarray, dict[str, float]]:
    """The run's rows, and what the endpoint counted."""
    path = DATA / f"mooncake_{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    endpoint = serve(ttft="1ms", itl="0", output_tokens="1", prefix_blocks=BLOCK)
    config = configuration(
        endpoint.url,
        out / "runs",
        **{
            "load.requests": rows,
            "load.trace.file": str(path),
            "load.trace.scale": scale,
            "load.trace.jitter": "uniform:quantum" if name == "conversation" else "none",
            "record": "requests",
        },
    )
    result = llmgen.run(config, quiet=True)
    check_run(result.directory)
    with urllib.request.urlopen(endpoint.url + "/metrics", timeout=20) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return result.requests, {name: float(value) for name, value in lines}


def check(rows: np.ndarray, counted: dict[str, float], requests: int, share: float) -> None:
    assert statuses(rows) == {"ok": requests}
    np.testing.assert_array_equal(rows["input_tokens"], rows["planned_input"])
    blocks = -(-rows["input_tokens"].astype(np.int64) // BLOCK)
    assert counted["llmgen:prefix_blocks_total"] == blocks.sum()
    assert counted["vllm:prefix_cache_queries_total"] == rows["input_tokens"].sum(dtype=np.int64)
    cached = np.maximum(rows["cached_tokens"], 0).astype(np.int64)  # -1: nothing of the prompt was
    hits = counted["llmgen:prefix_block_hits_total"]
    assert hits / counted["llmgen:prefix_blocks_total"] == pytest.approx(share, abs=0.0005)
    # and every answer told its own
    assert hits == (-(-cached // BLOCK)).sum()
    assert counted["vllm:prefix_cache_hits_total"] == cached.sum()


@pytest.mark.parametrize(("name", "share"), [("conversation", 0.289), ("synthetic", 0.328)])
def test_the_first_2000_rows(serve, tmp_path: Path, name: str, share: float) -> None:
    check(*replay(serve, tmp_path, name, 2000, 200), 2000, share)


@pytest.mark.full
@pytest.mark.parametrize(("name", "requests", "share"), [("conversation", 12_031, 0.366), ("synthetic", 3_993, 0.640)])
def test_the_whole_trace(serve, tmp_path: Path, name: str, requests: int, share: float) -> None:
    """145 and 61 million words: 0.8 and 0.3 GB."""
    check(*replay(serve, tmp_path, name, None, 100), requests, share)
