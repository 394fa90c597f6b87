"""What other tools would have printed about the same run: their definitions over our stamps.

Their names are ours or nearly so, their meanings are not: which event is the first token, whether the first token is
in the average, what happens to several tokens in one event. Each profile's docstring is its definition. All events
that came in one read have that read's time, as a tool sees them that reads a socket dry; a profile's gaps between them
are 0. Requests that succeeded and are due in the window; E2E from send unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from llmgen.columns import TOKEN_KINDS, Flag, Kind
from llmgen.errors import ConfigError
from llmgen.metrics import definitions
from llmgen.metrics.figures import Profile
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.statistics import distribution

NO_EVENTS: Final = "no events recorded: gaps are unknown (record: events)"
TOKENISER: Final = "counts tokens with a local tokeniser of the model; here they are the server's usage"


@dataclass(frozen=True, slots=True)
class _Streams:
    """Chosen events of the chosen requests: first and last of each request (n,), -1 without; gaps in order (m,).

    tokens: of each chosen event, at least 1.
    """

    rows: np.ndarray
    first: np.ndarray
    last: np.ndarray
    gaps: np.ndarray | None
    tokens: np.ndarray | None


def profile(m: Measurements, name: str) -> Profile:
    """The profile of that name. Raises ConfigError for one that is unknown."""
    if name not in PROFILES:
        raise ConfigError(f"--metrics-as {name!r}: unknown; known: {', '.join(PROFILES)}")
    return PROFILES[name](m)


def all_profiles(m: Measurements) -> dict[str, Profile]:
    """Every profile by its name."""
    return {name: make(m) for name, make in PROFILES.items()}


# -- events ---------------------------------------------------------------------------------------------------------


def has_choices(kind: np.ndarray) -> np.ndarray:
    """Events with a choice: all but those that carry only usage or an error. Bool."""
    beyond = ~np.uint8(Kind.usage | Kind.error)
    found: np.ndarray = (kind == 0) | ((kind & beyond) != 0)
    return found


def has_content(kind: np.ndarray) -> np.ndarray:
    """Events with text, reasoning or a tool call. Bool."""
    found: np.ndarray = (kind & np.uint8(TOKEN_KINDS)) != 0
    return found


def has_text(kind: np.ndarray) -> np.ndarray:
    """Events with visible text. Bool."""
    found: np.ndarray = (kind & np.uint8(Kind.text)) != 0
    return found


def _streams(m: Measurements, wanted: Callable[[np.ndarray], np.ndarray], first: str, last: str) -> _Streams:
    """first, last: the request's stamps that say the same at level `requests`."""
    rows = np.flatnonzero(m.inside & m.ok & ((m.requests["flags"] & Flag.whole_answer) == 0))
    events = m.run.events
    if events is None:
        return _Streams(rows, m.requests[first][rows], m.requests[last][rows], None, None)
    chosen = np.zeros(m.count, bool)
    chosen[rows] = True
    request = np.ascontiguousarray(events["request"])
    keep = wanted(np.ascontiguousarray(events["kind"])) & (request < m.count)
    keep &= chosen[np.minimum(request, max(m.count - 1, 0))] if m.count else False
    t, request, tokens = events["t"][keep], request[keep], events["tokens"][keep]
    send = np.maximum(m.requests["send"], 0)
    t, request, carried = definitions.by_request_and_time(t, request, tokens, send)
    starts = np.searchsorted(request, rows)
    ends = np.searchsorted(request, rows, side="right")
    some = ends > starts
    first_t, last_t = np.full(len(rows), -1, np.int64), np.full(len(rows), -1, np.int64)
    first_t[some], last_t[some] = t[starts[some]], t[ends[some] - 1]
    gaps = np.diff(t)[request[1:] == request[:-1]]
    return _Streams(
        rows, first_t, last_t, gaps, np.ones(len(t), np.int64) if carried is None else np.maximum(carried, 1)
    )


def _from(s: _Streams, later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    return np.where((later >= 0) & (earlier >= 0), (later - earlier).astype(np.float64), np.nan)


def _over(span: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """span / divisor where the divisor is positive."""
    out = np.full(len(span), np.nan)
    np.divide(span, divisor, out=out, where=divisor > 0)
    return out


def _made(name: str, s: _Streams, notes: list[str], **values: np.ndarray | None) -> Profile:
    found = {}
    for metric, array in values.items():
        dist = None if array is None else distribution(array[~np.isnan(array)])
        if dist is not None:
            found[f"{metric}_ms"] = msgspec.structs.replace(dist, certified=None)
    if s.gaps is None:
        notes.append(NO_EVENTS)
    return Profile(name=name, requests=len(s.rows), metrics=found, notes=tuple(notes))


# -- profiles -------------------------------------------------------------------------------------------------------


def vllm(m: Measurements) -> Profile:
    """`vllm bench serve`. n: usage, else re-tokenised (here: counted events).

    TTFT: first event with `choices`, role-only too, − send. E2E: last event with `choices` − send.
    TPOT: (E2E − TTFT) / (n − 1), for n > 1. ITL: gaps of all events with `choices`, pooled, each counted once.
    """
    s, values = _vllm(m)
    return _made("vllm", s, [], **values)


def vllm_values(m: Measurements) -> dict[str, np.ndarray]:
    """The values behind the profile `vllm` in ns, for the file that it writes; a name without values is left out."""
    _, values = _vllm(m)
    return {name: array[~np.isnan(array)] for name, array in values.items() if array is not None}


def _vllm(m: Measurements) -> tuple[_Streams, dict[str, np.ndarray | None]]:
    s = _streams(m, has_choices, "first_event", "last_token")
    send, n = m.requests["send"][s.rows], m.requests["output_tokens"][s.rows].astype(np.int64)
    ttft, e2e = _from(s, s.first, send), _from(s, s.last, send)
    itl = None if s.gaps is None else s.gaps.astype(np.float64)
    return s, {"ttft": ttft, "tpot": _over(e2e - ttft, n - 1), "itl": itl, "e2el": e2e}


def aiperf(m: Measurements) -> Profile:
    """AIPerf. n: a local tokeniser by default; usage with a flag.

    TTFT: first event with text, reasoning or a tool call − send. request_latency: last such event − send.
    inter_token_latency: (last such event − first) / (n − 1) of each request. inter_chunk_latency: gaps of such events.
    """
    s = _streams(m, has_content, "first_token", "last_token")
    send, n = m.requests["send"][s.rows], m.requests["output_tokens"][s.rows].astype(np.int64)
    return _made(
        "aiperf",
        s,
        [TOKENISER],
        ttft=_from(s, s.first, send),
        itl=_over(_from(s, s.last, s.first), n - 1),
        inter_chunk_latency=None if s.gaps is None else s.gaps.astype(np.float64),
        request_latency=_from(s, s.last, send),
    )


def guidellm(m: Measurements) -> Profile:
    """GuideLLM. n: usage, else the number of events.

    TTFT: first event with text, reasoning or a tool call − send. TPOT: (last such event − send) / n: includes TTFT.
    ITL: (last − first) / (n − 1) of each request.
    """
    s = _streams(m, has_content, "first_token", "last_token")
    send, told = m.requests["send"][s.rows], m.requests["output_tokens"][s.rows].astype(np.int64)
    n = np.where(told >= 0, told, m.requests["token_events"][s.rows])
    return _made(
        "guidellm",
        s,
        [],
        ttft=_from(s, s.first, send),
        tpot=_over(_from(s, s.last, send), n),
        itl=_over(_from(s, s.last, s.first), n - 1),
        e2e=_from(s, m.requests["end"][s.rows], send),
    )


def inference_perf(m: Measurements) -> Profile:
    """inference-perf. n: a local tokeniser.

    TTFT: first event with visible text (`delta.content`) − send. TPOT: (last such event − first) / (n − 1).
    ITL: gaps of such events; further tokens of an event count 0. NTPOT: E2E / n, E2E to the end of the answer.
    """
    s = _streams(m, has_text, "first_visible", "last_token")
    send, n = m.requests["send"][s.rows], m.requests["output_tokens"][s.rows].astype(np.int64)
    itl = None
    if s.gaps is not None and s.tokens is not None:
        itl = np.concatenate([s.gaps, np.zeros(int((s.tokens - 1).sum()))])
    e2e = _from(s, m.requests["end"][s.rows], send)
    return _made(
        "inference-perf",
        s,
        [TOKENISER],
        ttft=_from(s, s.first, send),
        tpot=_over(_from(s, s.last, s.first), n - 1),
        itl=itl,
        ntpot=_over(e2e, n),
        request_latency=e2e,
    )


def mlperf(m: Measurements) -> Profile:
    """MLPerf LoadGen, Server scenario. n: tokens.

    TTFT: first token − due: the query is issued when it is due. TPOT: (end − first token) / (n − 1).
    """
    s = _streams(m, has_content, "first_token", "last_token")
    r = m.requests
    due, end, n = r["due"][s.rows], r["end"][s.rows], r["output_tokens"][s.rows].astype(np.int64)
    return _made(
        "mlperf",
        s,
        [],
        ttft=_from(s, s.first, due),
        tpot=_over(_from(s, end, s.first), n - 1),
        latency=_from(s, end, due),
    )


PROFILES: Final[dict[str, Callable[[Measurements], Profile]]] = {
    "vllm": vllm,
    "aiperf": aiperf,
    "guidellm": guidellm,
    "inference-perf": inference_perf,
    "mlperf": mlperf,
}
