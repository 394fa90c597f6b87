"""The timer loop, placement, truth against report, and what is shown."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest

from fabricate_selfbench import APART, few, ramp, step
from llmgen import machine
from llmgen.columns import EVENT_DTYPE, REQUEST_DTYPE, Kind, Status
from llmgen.selfbench import page
from llmgen.selfbench.accuracy import against, reported
from llmgen.selfbench.figures import Loop, Memory, SelfBench
from llmgen.selfbench.lag import plain_loop, timer_loop
from llmgen.selfbench.placement import busiest, place, thread_seconds
from llmgen.selfbench.text import render
from llmgen.selfbench.timerloop import lags
from llmgen.simulator.truth import TRUTH_DTYPE, Truth

MS = 1_000_000


def test_the_timer_loop_waits_for_each_due_time_and_is_never_early() -> None:
    late = lags(np.arange(1, 51, dtype=np.int64) * 200_000)
    assert late.dtype == np.int64
    assert len(late) == 50
    assert (late >= 0).all()
    assert len(lags(np.empty(0, np.int64))) == 0


def test_a_plain_loop_leaves_the_affinity_as_it_was() -> None:
    before = os.sched_getaffinity(0)
    loop = plain_loop(2000.0, 0.05, max(before), 1)
    assert os.sched_getaffinity(0) == before
    assert (loop.n, loop.rate) == (100, 2000.0)
    assert 0 < loop.p50_us <= loop.p99_us
    named = timer_loop((Loop(rate=20.0, n=1, p50_us=1.0, p99_us=1.0, ks_distance=None), loop))
    assert named is not None
    assert named.p99_us == loop.p99_us
    assert timer_loop(()) is None


@pytest.mark.parametrize(
    ("cores", "quota", "client", "server", "shared"),
    [
        ([0], None, 0, (0,), True),
        ([0, 1], None, 1, (0,), False),
        ([0, 1], 1.5, 1, (0,), True),
        ([2, 3, 5], None, 5, (2, 3), False),
        ([0, 1, 2, 3], None, 3, (1, 2), False),  # the first is left to the controller
        (list(range(16)), 8.0, 15, (11, 12, 13, 14), False),
    ],
)
def test_placement(
    cores: list[int], quota: float | None, client: int, server: tuple[int, ...], shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(machine, "affinity", lambda: cores)
    monkeypatch.setattr(machine, "quota_cores", lambda: quota)
    found = place()
    assert (found.client_core, found.shared) == (client, shared)
    assert found.server_cores == server
    assert found.room == max(1, machine.usable_cores() - 1)


def test_processor_time_is_looked_up_by_thread() -> None:
    here = thread_seconds(os.getpid())
    assert str(os.getpid()) in here
    assert busiest({"1": 1.0}, {"1": 1.5, "2": 0.75}) == 0.75
    assert busiest({}, {}) == 0.0
    assert thread_seconds(1 << 22) == {}


def records() -> tuple[np.ndarray, np.ndarray, Truth]:
    """Three requests of three tokens; the client tells each first token 1 ms late."""
    requests = np.zeros(3, REQUEST_DTYPE)
    events = np.zeros(9, EVENT_DTYPE)
    asked, writes = np.zeros(4, TRUTH_DTYPE), np.zeros(9, TRUTH_DTYPE)
    for number in range(3):
        send = (10 + 100 * number) * MS
        first = send + 50 * MS
        requests[number]["due"] = requests[number]["send"] = send
        requests[number]["first_token"] = first + MS
        requests[number]["index"], requests[number]["status"] = number, Status.ok
        asked[number]["t"], asked[number]["index"], asked[number]["serial"] = send, number, 7 - number
        for token in range(3):
            event, write = events[3 * number + token], writes[3 * number + token]
            event["request"], event["kind"] = number, int(Kind.text)
            event["t"] = first + 20 * token * MS + (MS if token == 0 else 0)
            write["serial"], write["tokens"], write["t"] = 7 - number, 1, first + 20 * token * MS
    asked[3]["t"], asked[3]["index"], asked[3]["serial"] = 900 * MS, 2, 1  # of another run
    none = np.zeros(0, TRUTH_DTYPE)
    return requests, events, Truth(asked, writes[::-1].copy(), none, none)


def test_what_was_reported_is_held_against_the_log_of_the_same_requests() -> None:
    requests, events, truth = records()
    run = reported(requests, events, (100 * MS, 400 * MS), (0, 500 * MS))
    assert run.index.tolist() == [1, 2]
    ttft, gap = against(truth, run)
    assert ttft is not None
    assert gap is not None
    assert (ttft.n, ttft.p50_ms, ttft.p50_error_ms) == (2, 51.0, 1.0)
    assert (gap.n, gap.p50_ms, gap.p50_error_ms) == (4, 19.5, -0.5)


def test_nothing_in_common_is_no_error_of_zero() -> None:
    requests, events, truth = records()
    assert against(truth, reported(requests, events, (0, MS), (0, MS))) == (None, None)
    assert against(truth, reported(requests, None, (0, 400 * MS), (0, 500 * MS)))[1] is None


def bench() -> SelfBench:
    requests, events, truth = records()
    ttft, gap = against(truth, reported(requests, events, (0, 400 * MS), (0, 500 * MS)))
    steps = [step(1000, client=0.8, ttft=ttft, gap=gap), step(1300, "suspect", client=0.95)]
    loop = Loop(rate=1000.0, n=1000, p50_us=21.0, p99_us=2500.0, ks_distance=0.02)
    return SelfBench(
        started="2026-01-01T00:00:00+00:00",
        took_s=12.3,
        placement=APART,
        timer_loop=timer_loop((loop,)),
        ramps=(ramp("events", steps), ramp("requests", [few(8000)])),
        memory=(
            Memory(protocol="HTTP/1.1", streams=500, base_streams=10, base_mb=24.0, mb=24.5, bytes_per_stream=1070.0),
        ),
        sentence="This box can offer <b>enough</b>.",
        notes=("left out: TLS events",),
    )


def test_the_text_fits_80_columns_and_shows_every_part() -> None:
    text = render(bench(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("LIMITS", "ERROR", "SCHEDULE LAG", "MEMORY", "66,000", "+1.000", "late at 1300", "1,070", "left out"):
        assert part in text, part
    assert "partial" not in text
    partial = msgspec.structs.replace(bench(), state="incomplete", reasons=("interrupted",))
    assert render(partial).startswith("partial: interrupted")


def test_the_page_is_whole_and_escaped() -> None:
    document = page.render(bench())
    assert "&lt;b&gt;enough" in document
    assert "<b>enough" not in document
    for place_ in ("error", "lag", "cpu"):
        assert f'class="picture" id="{place_}"' in document


def test_the_json_is_what_the_verdict_reads(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine.cache_folder().mkdir()
    (machine.cache_folder() / "selfbench.json").write_bytes(msgspec.json.encode(bench()))
    assert machine.timer_loop() == {"p50_us": 21.0, "p99_us": 2500.0}
