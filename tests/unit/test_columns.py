"""The record schema: layouts equal the native structs, buckets and names equal the contract's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import llmgen
from llmgen import columns

PACKAGE = Path(llmgen.__file__).parent
CTYPES = {
    "int64_t": "<i8", "int32_t": "<i4", "uint64_t": "<u8", "uint32_t": "<u4", "uint16_t": "<u2", "uint8_t": "u1",
}  # fmt: skip


def struct(name: str, path: str = "recorder.pxd") -> np.dtype:
    """A `cdef struct` of plain integers as the C compiler lays it out."""
    text = (PACKAGE / path).read_text()
    body = re.search(rf"cdef struct {name}:.*\n((?:    .+\n)+)", text)
    assert body is not None, name
    fields = []
    for line in body[1].splitlines():
        ctype, names = re.sub(r"#.*", "", line).strip().split(" ", 1)
        for field in names.split(","):
            array = re.fullmatch(r"(\w+)\[(\d+)\]", field.strip())
            fields.append((array[1], f"V{array[2]}") if array else (field.strip(), CTYPES[ctype]))
    return np.dtype(fields, align=True)


@pytest.mark.parametrize(
    ("native", "ours"),
    [
        ("RequestRow", columns.REQUEST_DTYPE),
        ("EventRow", columns.EVENT_DTYPE),
        ("TimelineRow", columns.TIMELINE_DTYPE),
        ("HistogramRow", columns.HISTOGRAM_DTYPE),
    ],
)
def test_rows_have_the_layout_of_the_native_structs(native: str, ours: np.dtype) -> None:
    theirs = struct(native)
    assert theirs.names == ours.names
    assert theirs.itemsize == ours.itemsize
    for name in ours.names or ():
        assert theirs.fields[name][1] == ours.fields[name][1], name
        assert theirs.fields[name][0].itemsize == ours.fields[name][0].itemsize, name
        assert ours.fields[name][0].kind in (theirs.fields[name][0].kind, "V"), name


def test_every_time_is_a_column_of_64_bits() -> None:
    stamps = (
        "due dispatch acquired connect_start connected secured send sent headers first_byte first_event first_token"
    )
    for name in [*stamps.split(), "first_visible", "last_token", "end", "max_gap"]:
        assert columns.REQUEST_DTYPE[name] == np.int64


def test_bounds_of_buckets_are_log_linear() -> None:
    bounds = columns.bucket_bounds_ns()
    assert len(bounds) == columns.HISTOGRAM_BUCKETS
    assert bounds[0] == 0
    assert bounds[1] == 1000
    assert bounds[1 + 64] == 2000
    assert (np.diff(bounds) > 0).all()
    width = bounds[2:] / bounds[1:-1] - 1
    assert width.max() <= 1 / 64 + 1e-12  # so that a bucket's middle is at most 1/128 off


def test_status_names_are_those_of_the_contract() -> None:
    text = (PACKAGE.parents[1] / "docs" / "contract.md").read_text()
    told = re.search(r"Status names: `([^`]+)`", text)
    assert told is not None
    assert told[1].split() == [status.name for status in columns.Status if status is not columns.Status.in_flight]
