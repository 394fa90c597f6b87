"""Broken traces never crash the reader: every row is read, or the first broken one is named."""

import re
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.config import Trace
from llmgen.errors import ConfigError
from llmgen.workload import traces
from llmgen.workload.traces import azure

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
GOOD = [b"2023-11-16 18:%02d:46.6805900,%d,%d" % (i % 60, i * 31, i) for i in range(30)]


def read(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(data)
        blocks = list(traces.read(Trace(file=str(path), format="azure")))
    return [np.concatenate([getattr(b, name) for b in blocks]) for name in ("t_ns", "input", "output")]


lines = st.one_of(
    st.sampled_from(GOOD),
    st.binary(max_size=60).map(lambda b: b.replace(b"\n", b"")),
    st.from_regex(azure._ROW, fullmatch=True),
    st.text("0123456789-:. ,+Z", max_size=50).map(str.encode),
)


@given(st.integers(0, 29), lines, st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_row_put_among_good_ones_is_read_or_named(at, line, last):
    rows = GOOD[:at] + [line] + ([] if last else GOOD[at:])
    try:
        _, inputs, outputs = read(HEADER + b"\r\n".join(rows))
    except ConfigError as error:
        named = int(re.search(r"row (\d+) \(line", str(error))[1]) if at or not last or line.strip() else 1
        # the row itself, or the one behind it if that is the one out of order
        assert named in (at + 1, at + 2)
    else:
        kept = [row for row in rows if row.strip()]  # a last blank row is no row
        assert [f"{i},{o}".encode() for i, o in zip(inputs, outputs, strict=True)] == [
            b",".join(str(int(field)).encode() for field in row.split(b",")[1:]) for row in kept
        ]


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_behind_the_header(data):
    try:
        t_ns, _, _ = read(HEADER + data)
    except ConfigError:
        return
    assert np.all(np.diff(t_ns) >= 0)
    assert t_ns[0] == 0
