"""The plan on disk: what the controller writes and every worker maps.

A plan directory holds ``static.bin`` (bytes that many bodies share: prompt text, body frames) and numbered segments:
``NNNNNN.rows`` (PLAN_DTYPE), ``NNNNNN.spans`` (SPAN_DTYPE) and ``NNNNNN.bytes`` (bytes of single bodies). A body is a
list of spans; rows are sorted by due time over all segments. A segment is complete when its ``.rows`` file exists
(written last, renamed into place); ``plan.json`` is written after the last one and names their number.
"""

from __future__ import annotations

from typing import Final

import numpy as np

ANY_TARGET: Final = 0xFFFF  # the worker balances
DYNAMIC: Final = -1  # due time is decided during the run (closed loop, session turns)

PLAN_DTYPE: Final = np.dtype(
    [
        ("due", "<i8"),  # ns after the common start; DYNAMIC
        ("index", "<i8"),  # number of the request in the run
        ("first_span", "<u8"),  # into this segment's spans
        ("span_count", "<u2"),
        ("klass", "<u2"),
        ("target", "<u2"),
        ("worker", "<u2"),
        ("session", "<i4"),  # -1: none
        ("turn", "<u2"),
        ("head", "<u2"),  # number of the head template (path, model header, streaming)
        ("planned_input", "<i4"),
        ("planned_output", "<i4"),
        ("body_bytes", "<u4"),
        ("spare", "<u4"),
        ("think", "<i8"),  # dynamic rows of a session: ns between the end of the turn before and this one's due
    ]
)
assert PLAN_DTYPE.itemsize == 64

SPAN_DTYPE: Final = np.dtype([("offset", "<u8"), ("size", "<u4"), ("source", "<u4")])
SOURCE_STATIC: Final = 0
SOURCE_SEGMENT: Final = 1
