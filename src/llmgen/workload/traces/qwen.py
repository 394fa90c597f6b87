"""qwen-bailian traces (ATC'25): JSON lines, times in s, blocks of 16 tokens, chats linked by their parents.

{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 521, "output_length": 132,
 "type": "text", "turn": 1, "hash_ids": [1089, 1090]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from llmgen.workload.traces.jsonlines import Id, Number, Tokens, decoded, pieces_of_blocks, times_ns
from llmgen.workload.traces.options import Options
from llmgen.workload.traces.rows import NONE, NS, Labeller, Place, TraceBlock

EXPECTED: Final = (
    '{"chat_id": n, "parent_chat_id": n or -1, "timestamp": s, "input_length": n, "output_length": n, "type": "text", '
    '"turn": n, "hash_ids": [id, …]}'
)
BLOCK_SIZE: Final = 16


class Row(msgspec.Struct):
    chat_id: Id
    timestamp: Number
    input_length: Tokens
    output_length: Tokens
    parent_chat_id: Id = NONE
    type: str | None = None
    turn: Id = 1
    hash_ids: list[Id] = []


def read(path: Path, options: Options) -> Iterator[TraceBlock]:
    """Blocks of the trace in order; conversations.py makes conversations of the chats."""
    place = Place(path, EXPECTED)
    size = options.block_size or BLOCK_SIZE
    types = Labeller()
    for rows, lines in decoded(path, Row, place):
        t_ns = times_ns([row.timestamp for row in rows], options.unit_ns or NS, lines, place)
        lengths = np.array([row.input_length for row in rows], np.int64)
        chat = np.array([row.chat_id for row in rows], np.int64)
        parent = np.array([row.parent_chat_id for row in rows], np.int64)
        place.check_parents(chat, parent, lines)
        yield TraceBlock(
            place.relative(t_ns, lines, sorted_later=options.sorts),
            lengths,
            np.array([row.output_length for row in rows], np.int64),
            klass=types.labels(row.type for row in rows),
            pieces=pieces_of_blocks([row.hash_ids for row in rows], lengths, size),
            chat=chat,
            parent=parent,
            turn=np.array([row.turn for row in rows], np.int64),
        )
