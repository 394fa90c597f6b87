"""The truth log's layout and what is computed from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmgen.errors import RecordError
from llmgen.simulator import emit, truth


def test_the_native_row_is_the_dtype() -> None:
    fields, size = emit.truth_layout()
    assert size == truth.TRUTH_DTYPE.itemsize
    assert truth.TRUTH_DTYPE.fields is not None
    assert fields == [(name, truth.TRUTH_DTYPE.fields[name][1]) for name in truth.TRUTH_DTYPE.names or ()]


def rows(*values: dict[str, int]) -> np.ndarray:
    result = np.zeros(len(values), truth.TRUTH_DTYPE)
    for row, members in zip(result, values, strict=True):
        for name, value in members.items():
            row[name] = value
    return result


def test_reading_and_timing(tmp_path: Path) -> None:
    log = rows(
        {"t": 100, "index": 7, "serial": 1, "kind": truth.REQUEST, "tokens": 3, "input_tokens": 9},
        {"t": 110, "index": 8, "serial": 0, "kind": truth.REQUEST, "tokens": 1},
        {"t": 120, "serial": 1, "kind": truth.WRITE},  # the head alone
        {"t": 150, "serial": 1, "kind": truth.WRITE, "tokens": 1, "events": 2},
        {"t": 160, "serial": 0, "kind": truth.WRITE, "tokens": 1, "events": 1},
        {"t": 175, "serial": 1, "kind": truth.WRITE, "tokens": 2, "events": 1},
        {"t": 176, "serial": 1, "kind": truth.END, "tokens": 3},
    )
    path = tmp_path / "truth"
    path.write_bytes(truth.header() + log.tobytes() + b"half a row")
    read = truth.read_truth(path)
    assert [len(part) for part in read] == [2, 4, 1, 0]
    timing = truth.timing(read)
    assert timing.serial.tolist() == [0, 1]
    assert timing.index.tolist() == [8, 7]
    assert timing.ttft.tolist() == [50, 50]
    assert timing.last_token.tolist() == [160, 175]
    assert timing.tokens.tolist() == [1, 3]
    assert truth.gaps(read).tolist() == [25]


def test_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "truth").write_bytes(truth.header())
    read = truth.read_truth(tmp_path / "truth")
    assert len(truth.timing(read).serial) == 0
    assert len(truth.gaps(read)) == 0


def test_what_is_no_truth_log(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(RecordError, match="not a truth log"):
        truth.read_truth(tmp_path / "other")
