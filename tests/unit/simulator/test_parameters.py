"""How an engine is written, and what the presets promise."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from llmgen.errors import ConfigError
from llmgen.simulator import presets
from llmgen.simulator.offline import simulate
from llmgen.simulator.parameters import MAX_DRAFTS, MAX_REPLICAS, Parameters


def test_a_preset_with_changes() -> None:
    parameters = presets.read("tiny,step=8ms,prefill=1.5us,max_seqs=3,prefix_cache=no,noise=0.1,load=0")
    assert parameters.step_ns == 8e6
    assert parameters.prefill_ns == 1500
    assert parameters.max_seqs == 3
    assert parameters.prefix_cache is False
    assert parameters.noise == 0.1
    assert parameters.kv_blocks == presets.read("tiny").kv_blocks


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("huge", "no preset 'huge'"),
        ("tiny,speed=3", "'speed=3' is not KEY=VALUE"),
        ("tiny,step", "'step' is not KEY=VALUE"),
        ("tiny,step=8", "write it with its unit"),
        ("tiny,step=0", "more than no time"),
        ("tiny,max_seqs=0", "max_seqs: 0 is not between"),
        ("tiny,max_seqs=2.5", "not a whole number"),
        ("tiny,acceptance=2", "acceptance: 2.0 is not between"),
        ("tiny,acceptance=nan", "acceptance: nan is not between"),
        ("tiny,prefix_cache=maybe", "neither yes nor no"),
        ("tiny,refusal=200", "refusal: 200"),
        (f"tiny,drafts={MAX_DRAFTS + 1}", "drafts"),
        (f"tiny,replicas={MAX_REPLICAS + 1}", "replicas"),
        ("tiny,replicas=3,max_replicas=2", "max_replicas: 2 is less than the 3"),
    ],
)
def test_what_no_engine_can_have(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        presets.read(text)


def test_the_derived_presets_are_what_their_sources_say() -> None:
    h100 = presets.read("llama-8b-h100")
    # 16.06 GB of weights at 70 % of 3.35 TB/s; 131,072 bytes of KV cache a token, like any Llama 3.1 8B in BF16.
    assert h100.step_ns == pytest.approx(6.85e6, rel=0.01)
    assert h100.context_ns == pytest.approx(131072 / (3.35e12 * 0.7) * 1e9)
    assert h100.prefill_ns == pytest.approx(32.5e3, rel=0.01)
    assert h100.kv_blocks * 16 == pytest.approx(396_000, rel=0.01)
    assert presets.read("llama-8b-l4").kv_blocks < h100.kv_blocks / 10
    assert presets.read("llama-70b-4xh100").step_ns > 2 * h100.step_ns


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text(encoding="utf-8")
    table = text[text.index("| key | |") : text.index("The same model without a network")]
    documented = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line)))
    assert documented == {field.name.removesuffix("_ns") for field in msgspec.structs.fields(Parameters)}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_runs(name: str) -> None:
    arrivals = np.arange(50) * 200_000_000 + 20_000_000_000
    stamps = simulate(arrivals, np.full(50, 100), np.full(50, 20), name, start_ns=0)
    assert (stamps.admission == 0).all()
    assert (np.diff(stamps.steps["end"]) >= 0).all()
