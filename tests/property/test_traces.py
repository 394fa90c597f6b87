"""Rows of traces made to break them: every reader refuses with the row's number, or reads what is there."""

from __future__ import annotations

import re
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.config import Trace
from llmgen.errors import ConfigError
from llmgen.workload import traces
from llmgen.workload.traces.rows import MAX_TOKENS, joined

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = {
    "mooncake": ["timestamp", "input_length", "output_length", "hash_ids"],
    "qwen": ["chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "type", "turn", "hash_ids"],
    "ragpulse": ["timestamp", "input_length", "output_length", "hash_ids", "session_id"],
    "llmgen": ["t_ns", "in", "out", "class", "block_size", "prefix_ids", "prefix_sizes", "turn", "session"],
    "log": ["timestamp", "body", "path"],
}
HEADERS = {
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens",
    "splitwise": "arrival_timestamp,prompt_size,token_size",
}
FIELD = (
    st.integers(-5, 10**8).map(str)
    | st.floats().map(repr)
    | st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=6)
    | st.sampled_from(["", "2024-05-12", "2024-05-12 01:02:03", '"', "١٢", "1_0", "1e999", "0x10", "Infinity"])
)


def check(path: Path, name: str) -> None:
    """What is read has its invariants; what is refused names a row, or says that there is none."""
    refused: ConfigError | None = None
    blocks: list[traces.TraceBlock] = []
    try:
        blocks = list(traces.read(Trace(file=str(path), format=name)))
    except ConfigError as error:
        refused = error
    assert refused is None or re.search(r"row \d+ \(line \d+\) is |: no rows; ", str(refused)), refused
    if not blocks:
        return
    block = joined(blocks)
    assert np.all(np.diff(block.t_ns) >= 0)
    for lengths in (block.input, block.output):
        assert lengths.min(initial=0) >= 0
        assert lengths.max(initial=0) <= MAX_TOKENS
    if block.pieces is not None:
        assert block.pieces.counts.sum() == len(block.pieces.ids) == len(block.pieces.words)
        assert block.pieces.words.min(initial=1) >= 1
        ends = np.cumsum(block.pieces.counts)
        upto = np.concatenate([[0], np.cumsum(block.pieces.words)])
        assert np.all(upto[ends] - upto[ends - block.pieces.counts] <= block.input)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_json_rows(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    import json

    number = st.integers(-3, 10**7 + 5) | st.floats()
    value = JSON | number | st.lists(st.integers(-9, 9), max_size=4)
    row = st.dictionaries(st.sampled_from(NAMES[name]), value, max_size=len(NAMES[name]))
    sound = st.fixed_dictionaries({each: st.integers(1, 50) for each in NAMES[name][:3]})
    line = (row | sound).map(json.dumps) | st.text(string.printable.replace("\n", ""), max_size=20)
    rows = data.draw(st.lists(line, max_size=5))
    path = tmp_path_factory.mktemp("rows") / "trace.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8", errors="surrogatepass", newline="")
    check(path, name)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(text=st.binary(max_size=200))
def test_any_bytes(name: str, text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bytes") / "trace.jsonl"
    path.write_bytes(text)
    check(path, name)


@pytest.mark.parametrize("name", HEADERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_csv_rows(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    width = HEADERS[name].count(",") + 1
    row = st.lists(FIELD, min_size=width - 1, max_size=width + 1).map(",".join)
    rows = data.draw(st.lists(row, max_size=5))
    path = tmp_path_factory.mktemp("rows") / "trace.csv"
    path.write_text("\n".join([HEADERS[name], *rows]), encoding="utf-8", newline="")
    check(path, name)
