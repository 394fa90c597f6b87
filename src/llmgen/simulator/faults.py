"""Faults of the embedded endpoint: what each does on the wire, and the grammar of ``--fault``.

``--fault NAME:PROBABILITY``, repeatable. A request has at most one fault; which one depends on the seed and the
request's id (``x-request-id``; without it, on its number), so that a run with the same seed meets the same faults. A
fault in the middle of an answer strikes after half of its tokens.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from llmgen.errors import ConfigError
from llmgen.simulator.distribution import duration_ns


class Fault(enum.IntEnum):
    """Codes of server.pxd, and of `detail` in the truth log's request and end rows."""

    none = 0
    status = 1
    refuse = 2
    drop = 3
    hang = 4
    garbage = 5
    html = 6
    reset = 7
    stall = 8
    slow = 9
    cut = 10
    eof = 11
    malformed = 12
    error_event = 13
    crlf = 14
    split = 15
    no_usage = 16
    content_type = 17
    unframed = 18
    close = 19
    empty = 20
    goaway = 21
    refused_stream = 22
    rst_stream = 23
    cancelled = 254  # end rows: the client went away
    stopped = 255  # end rows: the endpoint was stopped


FAULTS: Final = {
    "refuse": "per connection: accepted and reset at once",
    "drop": "the connection is closed instead of an answer, without a byte",
    "hang": "never answers",
    "garbage": "answers with bytes that are not HTTP, then closes",
    "html": "200 with a text/html page",
    "reset": "the connection is reset in the middle of the answer",
    "stall": "nothing comes any more from the middle of the answer on; the connection stays open",
    "slow": "the answer comes at one byte a second",
    "cut": "the answer ends in its middle with a clean end of the body, without finish_reason and [DONE]",
    "eof": "the connection is closed in the middle of an event",
    "malformed": "one event in the middle is broken JSON",
    "error-event": "an error event and [DONE] in the middle of a 200 (whole answers: 500)",
    "crlf": "lines of the event stream end in CRLF",
    "split": "every event comes in two writes, cut inside a multi-byte character",
    "no-usage": "no usage although it was asked for",
    "content-type": "the event stream says application/octet-stream",
    "unframed": "the answer's end is the connection's end: neither Content-Length nor chunks",
    "close": "Connection: close after a whole answer",
    "empty": "a 200 without a token",
}

# Names that are a setting of the endpoint instead of a probability.
SETTINGS: Final = {"close-idle": "close-idle:5s: connections without a request for so long are closed"}

MIN_STATUS, MAX_STATUS = 300, 599  # any such code is a fault's name


class Rules(NamedTuple):
    """What the loop gets: cumulative 64-bit thresholds."""

    rules: list[tuple[int, int, int]]  # (below, Fault, parameter)
    refuse_below: int
    close_idle_ns: int


def parse(texts: tuple[str, ...]) -> Rules:
    """Reads ``NAME:PROBABILITY`` items. ConfigError: unknown name, no probability, more than 1 in all."""
    rules: list[tuple[int, int, int]] = []
    total = refuse = 0.0
    close_idle_ns = 0
    for text in texts:
        name, _, value = text.partition(":")
        if name == "close-idle":
            close_idle_ns = duration_ns("fault close-idle", value)
            continue
        if name not in FAULTS and not _is_status(name):
            known = ", ".join([*FAULTS, *SETTINGS])
            raise ConfigError(f"fault: no fault {name!r}; there are {known}, and HTTP codes from 300 to 599")
        probability = _probability(text, value)
        if name == "refuse":
            refuse += probability
            continue
        total += probability
        below = min(round(total * 2**64), 2**64 - 1)
        if _is_status(name):
            rules.append((below, Fault.status, int(name)))
        else:
            rules.append((below, Fault[name.replace("-", "_")], 0))
    if total > 1 + 1e-9 or refuse > 1:
        raise ConfigError(f"fault: the probabilities sum to {max(total, refuse):g}; a request has one fault at most")
    return Rules(rules, min(round(refuse * 2**64), 2**64 - 1), close_idle_ns)


def describe() -> str:
    """The list of faults for --help."""
    width = max(map(len, FAULTS))
    lines = [f"  {name:<{width}}  {text}" for name, text in FAULTS.items()]
    lines.append(f"  {'429, 503 …':<{width}}  that status at once (429 and 503 with Retry-After)")
    lines += [f"  {name:<{width}}  {text}" for name, text in SETTINGS.items()]
    return "\n".join(lines)


def _is_status(name: str) -> bool:
    return name.isascii() and name.isdigit() and MIN_STATUS <= int(name) <= MAX_STATUS


def _probability(text: str, value: str) -> float:
    try:
        probability = float(value)
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise ConfigError(f"fault: {text!r} needs a probability from 0 to 1, like {text.partition(':')[0]}:0.01")
    return probability
