"""Which failures came first in a series of runs, and what each kind means for a server under load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from llmgen.columns import Status
from llmgen.metrics.definitions import failed
from llmgen.records import read_errors
from llmgen.series import Taken

MOST: Final = 3  # kinds told: what follows the first ones follows from them
SAMPLE: Final = 60  # characters of a server's own words
OUT_OF_MEMORY: Final = ("out of memory", "outofmemory", "oom")
MEANINGS: Final = {
    "rate_limited": "the server refuses: a limit, or its queue is full",
    "http_5xx": "the server refuses or breaks: its queue is full, or a crash",
    "server_timeout": "the server gave up",
    "connect_refused": "nobody listens: the process is gone",
    "connect_timeout": "connections are not accepted: accept queue overflow",
    "reset": "connections are cut",
    "eof": "connections are cut",
    "stream_cut": "answers break off",
    "stream_error": "answers end in an error",
    "first_token_timeout": "waits longer than our timeout",
    "total_timeout": "takes longer than our timeout",
    "idle_timeout": "answers stand still",
}


class FirstError(NamedTuple):
    """The first request that failed in a way. at_s: when it ended, since the start of its run; words: the server's."""

    status: str
    run: int
    label: str
    at_s: float
    times: int  # in that run
    words: str


def first_errors(runs: Sequence[Taken]) -> list[FirstError]:
    """The first failure of each kind, in the order in which the kinds appeared."""
    found: dict[str, FirstError] = {}
    for taken in runs:
        run = taken.open()
        start, rows = int(run.info.get("start_ns") or 0), run.requests
        bad = np.flatnonzero(failed(rows))
        when = np.where(rows["end"][bad] >= 0, rows["end"][bad], rows["due"][bad])
        words = {str(one.get("status")): str(one.get("text") or "") for one in reversed(read_errors(taken.directory))}
        for row in bad[np.argsort(when, kind="stable")]:
            name = Status(int(rows["status"][row])).name
            if name not in found:
                at = float(max(rows["end"][row], rows["due"][row]) - start) / 1e9
                count = int(np.count_nonzero(rows["status"] == rows["status"][row]))
                found[name] = FirstError(name, taken.step.number, taken.step.label, at, count, words.get(name, ""))
    return list(found.values())


def told_of(errors: Sequence[FirstError]) -> str:
    """The first kinds in words."""
    if not errors:
        return "none"
    parts = []
    for one in errors[:MOST]:
        meaning = MEANINGS.get(one.status, "")
        if any(word in one.words.lower() for word in OUT_OF_MEMORY):
            meaning = "the server is out of memory"
        words = " ".join(one.words.split())[:SAMPLE]
        said = f", “{words}”" if words else ""
        parts.append(
            f"{one.status} at {one.at_s:.1f} s of run {one.run} ({one.label}), {one.times} of it"
            + (f": {meaning}" if meaning else "")
            + said
        )
    return "; then ".join(parts)
