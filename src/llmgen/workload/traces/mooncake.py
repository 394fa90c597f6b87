"""Mooncake traces (FAST'25): JSON lines, times in ms, blocks of 512 tokens as hashes of prefixes.

    {"timestamp": 27000, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48]}

The conversation and tool traces are stamped every 3 s; see `jitter`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from llmgen.workload.traces.jsonlines import Id, Number, Tokens, decoded, pieces_of_blocks, times_ns
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import Place, TraceBlock

EXPECTED: Final = '{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [id, …]}'
BLOCK_SIZE: Final = 512
UNIT_NS: Final = 1_000_000


class Row(msgspec.Struct, gc=False):
    timestamp: Number
    input_length: Tokens
    output_length: Tokens
    hash_ids: list[Id] = []


def read(path: Path, options: Options) -> Iterator[TraceBlock]:
    """Blocks of the trace in order. ConfigError naming the first row that is broken or out of order."""
    place = Place(path, EXPECTED)
    size = options.block_size or BLOCK_SIZE
    for rows, lines in decoded(path, Row, place):
        t_ns = times_ns([row.timestamp for row in rows], options.unit_ns or UNIT_NS, lines, place)
        lengths = np.array([row.input_length for row in rows], np.int64)
        yield TraceBlock(
            place.relative(t_ns, lines, sorted_later=options.sorts),
            lengths,
            np.array([row.output_length for row in rows], np.int64),
            pieces=pieces_of_blocks([row.hash_ids for row in rows], lengths, size),
        )
