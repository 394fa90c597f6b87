"""Which rows of a trace are turns of one conversation, and which turn each of them answers.

A row that has an id of its own or names a parent is linked by these alone: it follows the last row before it that has
the parent's id. A row that has only a session follows the row of that session before it. What follows no row (its
parent is outside of the window, was left out, or comes later) begins a conversation. Rows of one parent are turns of
the same number: conversations are trees.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np

from llmgen.workload.traces.rows import NONE, Ints, TraceBlock

MAX_TURN: Final = 65_535  # what a record holds; later ones share it


@dataclass(frozen=True)
class Turns:
    """Rows of a trace as turns; arrays (rows,)."""

    session: Ints  # conversations in the order of their first rows; NONE: no turn of any
    turn: Ints  # from 0
    back: Ints  # so many rows before this one lies the one that it answers; 0: it begins a conversation
    torn: Ints  # 1: names a parent that is not before it


class Conversations:
    """Links the rows of a trace, block by block, with some 100 bytes of memory a row."""

    def __init__(self) -> None:
        self.count = 0  # conversations so far
        self._row_of_chat: dict[int, int] = {}
        self._row_of_session: dict[int, int] = {}
        self._session, self._turn = array("i"), array("H")  # of all rows

    def link(self, block: TraceBlock) -> Turns | None:
        """The next rows; None if nothing in them tells of conversations."""
        if block.session is None and block.chat is None and block.parent is None:
            return None
        first, rows = len(self._session), len(block)
        parent = [NONE] * rows  # rows
        named = _column(block.parent, rows)
        for row, (session, chat, parent_chat) in enumerate(
            zip(_column(block.session, rows), _column(block.chat, rows), named, strict=True), first
        ):
            before = NONE
            if chat >= 0 or parent_chat >= 0:
                if parent_chat >= 0:
                    before = self._row_of_chat.get(parent_chat, NONE)
                if chat >= 0:
                    self._row_of_chat[chat] = row
            elif session >= 0:
                before = self._row_of_session.get(session, NONE)
                self._row_of_session[session] = row
            else:
                self._session.append(NONE)
                self._turn.append(0)
                continue
            parent[row - first] = before
            if before == NONE:
                self._session.append(self.count)
                self._turn.append(0)
                self.count += 1
            else:
                self._session.append(self._session[before])
                self._turn.append(min(self._turn[before] + 1, MAX_TURN))
        found = np.array(parent, np.int64)
        return Turns(
            np.array(self._session[first:], np.int64),
            np.array(self._turn[first:], np.int64),
            np.where(found == NONE, 0, np.arange(first, first + rows) - found),
            ((found == NONE) & (np.array(named, np.int64) >= 0)).astype(np.int64),
        )


def _column(values: Ints | None, rows: int) -> list[int]:
    return [NONE] * rows if values is None else values.tolist()
