"""The truth log (``llmgen serve --truth FILE``): what the endpoint did and when, to hold a client's claims against.

A header of 64 bytes, then rows of 40: one a request (arrival by the kernel's stamp), one a write and stream (the
stamp taken just before the syscall), one an answer's end; with an engine also one a step and change of state. Times
are int64 ns of CLOCK_MONOTONIC, as in a run's records on the same machine. The log is complete when the endpoint has
ended; before that it lacks at most the last second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmgen.errors import RecordError

TRUTH_MAGIC: Final = b"LLMGTRU1"
TRUTH_HEADER_BYTES: Final = 64

TRUTH_DTYPE: Final = np.dtype(
    [
        ("t", "<i8"),
        ("index", "<i8"),  # the last group of x-request-id, -1: none
        ("serial", "<u4"),  # number of the request at this endpoint; mark of a step: sequences that ran
        ("connection", "<u4"),  # mark: number of the replica
        ("stream", "<u4"),  # HTTP/2 stream id, 0 on HTTP/1.1; mark of a step: sequences that waited
        ("tokens", "<u4"),  # request: planned; write: in this write; end: sent; mark of a step: given
        ("input_tokens", "<u4"),  # request: words of the prompt; mark of a step: those computed
        ("events", "<u2"),  # write: SSE events of this stream in it, [DONE] excepted
        ("kind", "u1"),
        ("detail", "u1"),  # request: its Fault; end: how it ended (0 well); mark: which; write: 1 if not all was taken
    ]
)
assert TRUTH_DTYPE.itemsize == 40

REQUEST, WRITE, END, MARK = 0, 1, 2, 4  # rows of other kinds are of no interest

MARKS: Final = {  # what the engine's model does, by its own clock; engine.pxd
    1: "step",  # a step's end
    2: "queued",  # of a request, as are the next two
    3: "scheduled",
    4: "preempted",
    5: "ordered",  # of a replica, as are all that follow
    6: "ready",
    7: "draining",
    8: "removed",
    9: "throttled",
    10: "cool",
}


class Truth(NamedTuple):
    """Rows of TRUTH_DTYPE by kind, each in the order of writing."""

    requests: NDArray[np.void]
    writes: NDArray[np.void]
    ends: NDArray[np.void]
    marks: NDArray[np.void]  # only of `--engine`

    def marked(self, name: str) -> NDArray[np.void]:
        """The marks of one of MARKS' names."""
        code = next(code for code, text in MARKS.items() if text == name)
        rows: NDArray[np.void] = self.marks[self.marks["detail"] == code]
        return rows


@dataclass(frozen=True, slots=True)
class Timing:
    """One entry a request that got a token, sorted by serial; times in ns."""

    serial: NDArray[np.uint32]
    index: NDArray[np.int64]
    ttft: NDArray[np.int64]  # stamp of the first write with a token - arrival by the kernel's stamp
    first_token: NDArray[np.int64]
    last_token: NDArray[np.int64]
    tokens: NDArray[np.int64]


def header() -> bytes:
    """The first TRUTH_HEADER_BYTES of a log."""
    return (TRUTH_MAGIC + np.uint32(TRUTH_DTYPE.itemsize).tobytes()).ljust(TRUTH_HEADER_BYTES, b"\0")


def read_truth(path: str | Path) -> Truth:
    """Reads a log; a last row that is not whole yet is left out. RecordError if it is none."""
    with open(path, "rb") as file:
        if file.read(TRUTH_HEADER_BYTES) != header():
            raise RecordError(f"{path}: not a truth log of this version")
        data = file.read()
    rows = np.frombuffer(data, TRUTH_DTYPE, count=len(data) // TRUTH_DTYPE.itemsize)
    return Truth(*(rows[rows["kind"] == kind] for kind in (REQUEST, WRITE, END, MARK)))


def timing(truth: Truth) -> Timing:
    """What a perfect client would have seen of each request."""
    writes = truth.writes[truth.writes["tokens"] > 0]
    order = np.lexsort((writes["t"], writes["serial"]))
    writes = writes[order]
    serial, first = np.unique(writes["serial"], return_index=True)
    last = np.append(first, len(writes))[1:] - 1
    requests = truth.requests[np.argsort(truth.requests["serial"], kind="stable")]
    row = requests[np.searchsorted(requests["serial"], serial)]
    tokens = np.add.reduceat(writes["tokens"].astype(np.int64), first) if len(serial) else np.empty(0, np.int64)
    return Timing(
        serial=serial,
        index=row["index"],
        ttft=writes["t"][first] - row["t"],
        first_token=writes["t"][first],
        last_token=writes["t"][last],
        tokens=tokens,
    )


def gaps(truth: Truth) -> NDArray[np.int64]:
    """Gaps in ns between consecutive writes with tokens of the same request, all requests together."""
    writes = truth.writes[truth.writes["tokens"] > 0]
    writes = writes[np.lexsort((writes["t"], writes["serial"]))]
    same = writes["serial"][1:] == writes["serial"][:-1]
    result: NDArray[np.int64] = np.diff(writes["t"])[same]
    return result
