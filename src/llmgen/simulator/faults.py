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
    mute = 24
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
    "mute": "per connection: accepted, read from, never answered a byte (nor a TLS handshake)",
    "goaway": "HTTP/2: GOAWAY in the middle of the answer, which goes on; later streams were not processed",
    "refused-stream": "HTTP/2: RST_STREAM with REFUSED_STREAM at once",
    "rst-stream": "HTTP/2: RST_STREAM with INTERNAL_ERROR in the middle of the answer",
}
PER_CONNECTION: Final = ("refuse", "mute")

# Names that are a setting of the endpoint instead of a probability.
SETTINGS: Final = {
    "close-idle": "close-idle:5s: connections without a request for so long are closed",
    "stream-limit": "HTTP/2, stream-limit:8: so many streams at once on a connection (1000)",
    "lowered-stream-limit": "HTTP/2, lowered-stream-limit:1: announced with a connection's first token",
    "window": "HTTP/2, window:1: bytes of a request's body that a client may send ahead (1 MiB)",
    "slow-settings": "HTTP/2, slow-settings:1s: SETTINGS come so long after the connection",
}

MIN_STATUS, MAX_STATUS = 300, 599  # any such code is a fault's name
MAX_RULES: Final = 64  # server.pxd


class Rules(NamedTuple):
    """What the loop gets: cumulative 64-bit thresholds, times in ns."""

    rules: list[tuple[int, int, int]]  # (below, Fault, parameter)
    refuse_below: int = 0
    mute_below: int = 0
    close_idle_ns: int = 0
    stream_limit: int = 1000  # between a gateway's usual 100 and what benchmarks of many streams ask for
    lowered_limit: int = 0
    window: int = 1 << 20  # a whole prompt of 128 Ki tokens
    slow_settings_ns: int = 0


def parse(texts: tuple[str, ...]) -> Rules:
    """Reads ``NAME:PROBABILITY`` items and settings. ConfigError: unknown name, no probability, more than 1 in all."""
    rules: list[tuple[int, int, int]] = []
    settings: dict[str, int] = {}
    per_connection = dict.fromkeys(PER_CONNECTION, 0.0)
    total = 0.0
    for text in texts:
        name, _, value = text.partition(":")
        if name in SETTINGS:
            settings |= _setting(name, value)
        elif name in PER_CONNECTION:
            per_connection[name] += _probability(text, value)
        elif name in FAULTS or _is_status(name):
            total += _probability(text, value)
            code = (Fault.status, int(name)) if _is_status(name) else (Fault[name.replace("-", "_")], 0)
            rules.append((_threshold(total), *code))
        else:
            known = ", ".join([*FAULTS, *SETTINGS])
            raise ConfigError(f"fault: no fault {name!r}; there are {known}, and HTTP codes from 300 to 599")
    for kind, most in (("request", total), *per_connection.items()):
        if most > 1 + 1e-9:
            raise ConfigError(f"fault: the probabilities sum to {most:g} ({kind}); there is one fault at most")
    if len(rules) > MAX_RULES:
        raise ConfigError(f"fault: {len(rules)} faults, at most {MAX_RULES}")
    thresholds = {f"{name}_below": _threshold(share) for name, share in per_connection.items()}
    return Rules(rules, **thresholds, **settings)


def _threshold(probability: float) -> int:
    return min(round(probability * 2**64), 2**64 - 1)


def _setting(name: str, value: str) -> dict[str, int]:
    key = f"fault {name}"
    if name in ("close-idle", "slow-settings"):
        return {name.replace("-", "_") + "_ns": duration_ns(key, value)}
    field = {"stream-limit": "stream_limit", "lowered-stream-limit": "lowered_limit", "window": "window"}[name]
    if not (value.isascii() and value.isdigit() and 1 <= int(value) < 2**31):
        raise ConfigError(f"{key}: {value!r} is not a whole number from 1 to 2^31 - 1")
    return {field: int(value)}


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
