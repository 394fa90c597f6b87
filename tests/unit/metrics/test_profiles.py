"""Profiles against the tools' own formulas, run over the same crafted streams event by event."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fabricate import MS, request_rows, run_info, write_run
from llmgen.columns import EVENT_DTYPE, TOKEN_KINDS, Kind, Status
from llmgen.errors import ConfigError
from llmgen.metrics.measurements import Measurements
from llmgen.metrics.profiles import NO_EVENTS, PROFILES, Profile, all_profiles, profile
from llmgen.records import open_run


@dataclass
class Chunk:
    """An event as a client would get it: ms after send, what it carries, how many tokens."""

    ms: float
    kind: int
    tokens: int = 1


ROLE, TEXT, THINK, TOOL, FINISH, USAGE = (
    Kind.role, Kind.text, Kind.reasoning, Kind.tool, Kind.finish, Kind.usage,
)  # fmt: skip

STREAMS = {
    "plain": [Chunk(50, TEXT), Chunk(60, TEXT), Chunk(75, TEXT), Chunk(75, USAGE, 0)],
    "role first": [Chunk(10, ROLE, 0), Chunk(50, TEXT), Chunk(60, TEXT), Chunk(61, FINISH, 0), Chunk(62, USAGE, 0)],
    "several tokens an event": [Chunk(50, TEXT, 1), Chunk(80, TEXT, 3), Chunk(120, TEXT, 4), Chunk(121, USAGE, 0)],
    "three events in a read": [Chunk(50, TEXT), *[Chunk(90, TEXT)] * 3, Chunk(90, FINISH, 0)],
    "reasoning first": [Chunk(5, ROLE, 0), Chunk(40, THINK), Chunk(55, THINK), Chunk(100, TEXT), Chunk(110, TEXT)],
    "a tool call": [Chunk(30, TOOL, 2), Chunk(45, TOOL, 2), Chunk(46, FINISH | USAGE, 0)],
    "one token": [Chunk(70, TEXT), Chunk(71, USAGE, 0)],
    "an empty delta": [Chunk(20, 0, 0), Chunk(50, TEXT), Chunk(65, TEXT)],
}  # fmt: skip
SEND_LATE_MS = 1.0  # fabricate sends 1 ms after due
END_MS = 3.0  # from the last event to the end of the answer


def tokens_of(stream: list[Chunk]) -> int:
    return sum(chunk.tokens for chunk in stream if chunk.kind & TOKEN_KINDS)


def make(path: Path, streams: list[list[Chunk]], *, events: bool = True, failed: int | None = None) -> Measurements:
    rows = request_rows(len(streams), every_ms=1000)
    made = []
    for number, stream in enumerate(streams):
        row = rows[number]
        send = int(row["send"])
        content = [chunk for chunk in stream if chunk.kind & TOKEN_KINDS]
        visible = [chunk for chunk in content if chunk.kind & TEXT]
        row["first_event"] = send + int(stream[0].ms * MS)
        row["first_token"] = send + int(content[0].ms * MS)
        row["first_visible"] = send + int(visible[0].ms * MS) if visible else -1
        row["last_token"] = send + int(content[-1].ms * MS)
        row["end"] = send + int((stream[-1].ms + END_MS) * MS)
        row["output_tokens"] = tokens_of(stream)
        row["token_events"], row["events"] = len(content), len(stream)
        made += [(send + int(chunk.ms * MS), number, chunk.tokens, chunk.kind, 0) for chunk in stream]
    if failed is not None:
        rows["status"][failed] = Status.http_5xx
    array = np.array(made, EVENT_DTYPE) if events else None
    return Measurements(open_run(write_run(path / "run", rows, array, run_info(len(rows), every_ms=1000))))


# -- the tools' loops, as they treat one stream: seconds are ms here ---------------------------------------------


def as_vllm(stream: list[Chunk]) -> dict[str, list[float]]:
    """endpoint_request_func.py and calculate_metrics: chunks with choices; the usage chunk has none."""
    ttft, latest, itl = None, 0.0, []
    for chunk in stream:
        if chunk.kind == USAGE:
            continue
        if ttft is None:
            ttft = chunk.ms
        else:
            itl.append(chunk.ms - latest)
        latest = chunk.ms
    n = tokens_of(stream)
    assert ttft is not None
    tpot = [(latest - ttft) / (n - 1)] if n > 1 else []
    return {"ttft": [ttft], "tpot": tpot, "itl": itl, "e2el": [latest]}


def as_aiperf(stream: list[Chunk]) -> dict[str, list[float]]:
    content = [chunk.ms for chunk in stream if chunk.kind & TOKEN_KINDS]
    latency, ttft, osl = content[-1], content[0], tokens_of(stream)
    itl = [(latency - ttft) / (osl - 1)] if osl >= 2 else []
    chunks = [b - a for a, b in itertools.pairwise(content)]
    return {"ttft": [ttft], "itl": itl, "inter_chunk_latency": chunks, "request_latency": [latency]}


def as_guidellm(stream: list[Chunk]) -> dict[str, list[float]]:
    content = [chunk.ms for chunk in stream if chunk.kind & TOKEN_KINDS]
    n = tokens_of(stream)
    itl = [(content[-1] - content[0]) / (n - 1)] if n > 1 else []
    return {"ttft": [content[0]], "tpot": [content[-1] / n], "itl": itl, "e2e": [stream[-1].ms + END_MS]}


def as_inference_perf(stream: list[Chunk]) -> dict[str, list[float]]:
    """output_token_times has an entry a token: tokens of one event share its time."""
    times = [chunk.ms for chunk in stream if chunk.kind & TEXT for _ in range(chunk.tokens)]
    n, e2e = tokens_of(stream), stream[-1].ms + END_MS
    if not times:
        return {"ttft": [], "tpot": [], "itl": [], "ntpot": [e2e / n], "request_latency": [e2e]}
    tpot = [(times[-1] - times[0]) / (n - 1)] if n > 1 else []
    itl = [b - a for a, b in itertools.pairwise(times)]
    return {"ttft": [times[0]], "tpot": tpot, "itl": itl, "ntpot": [e2e / n], "request_latency": [e2e]}


def as_mlperf(stream: list[Chunk]) -> dict[str, list[float]]:
    content = [chunk.ms for chunk in stream if chunk.kind & TOKEN_KINDS]
    end, n = stream[-1].ms + END_MS, tokens_of(stream)
    tpot = [(end - content[0]) / (n - 1)] if n > 1 else []
    return {"ttft": [content[0] + SEND_LATE_MS], "tpot": tpot, "latency": [end + SEND_LATE_MS]}


TOOLS = {
    "vllm": as_vllm,
    "aiperf": as_aiperf,
    "guidellm": as_guidellm,
    "inference-perf": as_inference_perf,
    "mlperf": as_mlperf,
}


def check(found: Profile, expected: dict[str, list[float]]) -> None:
    for metric, values in expected.items():
        dist = found.metrics.get(f"{metric}_ms")
        if not values:
            assert dist is None, metric
            continue
        assert dist is not None, metric
        assert dist.n == len(values), metric
        told = [dist.mean, dist.min, dist.p50, dist.p90, dist.p99, dist.max]
        mine = [np.mean(values), min(values), *np.quantile(values, [0.5, 0.9, 0.99]), max(values)]
        assert told == pytest.approx(mine, abs=1e-5), metric
    assert set(found.metrics) == {f"{metric}_ms" for metric, values in expected.items() if values}


@pytest.mark.parametrize("tool", PROFILES)
@pytest.mark.parametrize("stream", STREAMS)
def test_one_stream_as_the_tool_treats_it(tmp_path: Path, tool: str, stream: str) -> None:
    check(profile(make(tmp_path, [STREAMS[stream]]), tool), TOOLS[tool](STREAMS[stream]))


@pytest.mark.parametrize("tool", PROFILES)
def test_all_streams_together(tmp_path: Path, tool: str) -> None:
    expected: dict[str, list[float]] = {}
    for stream in STREAMS.values():
        for metric, values in TOOLS[tool](stream).items():
            expected.setdefault(metric, []).extend(values)
    check(profile(make(tmp_path, list(STREAMS.values())), tool), expected)


def test_failed_requests_are_left_out_as_the_tools_do(tmp_path: Path) -> None:
    m = make(tmp_path, list(STREAMS.values()), failed=0)
    for told in all_profiles(m).values():
        assert told.requests == len(STREAMS) - 1


def test_without_events_the_stamps_of_requests_tell_what_they_can(tmp_path: Path) -> None:
    m = make(tmp_path, [STREAMS["role first"]], events=False)
    told = profile(m, "vllm")
    assert told.metrics["ttft_ms"].p50 == 10
    assert "itl_ms" not in told.metrics
    assert NO_EVENTS in told.notes
    assert profile(m, "guidellm").metrics["itl_ms"].p50 == 10


def test_unknown_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: vllm, aiperf"):
        profile(make(tmp_path, [STREAMS["plain"]]), "wrk")
