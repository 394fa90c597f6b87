"""Conversations of a trace, replayed by their links: what waits for which answer, who sends it, and to whom."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llmgen.columns import Flag
from llmgen.simulator import Endpoint
from odd_servers import DONE, FINISH, OddServer, Peer, Request, answering, stream, token, whole
from running import Offer, statuses

MS = 1_000_000
# (chat, parent, s): two conversations, the first a tree; the last row's parent is in no row.
ROWS = [(1, -1, 0.0), (2, -1, 0.01), (3, 1, 0.02), (4, 1, 0.03), (5, 3, 0.04), (6, 2, 0.9), (7, 99, 0.95)]
PARENT = {2: 0, 3: 0, 4: 2, 5: 1}  # by the number of the row


def trace(path: Path, rows: Iterable[tuple[int, int, float]] = ROWS, words: int = 20) -> str:
    path.write_text(
        "".join(
            json.dumps(
                {
                    "chat_id": chat,
                    "parent_chat_id": parent,
                    "timestamp": t,
                    "input_length": words,
                    "output_length": 4,
                    "type": "text",
                    "turn": 1,
                    "hash_ids": [chat, chat + 1000],
                }
            )
            + "\n"
            for chat, parent, t in rows
        )
    )
    return str(path)


def replay(offer: Offer, url: str | list[str], file: str, **more: Any) -> Any:
    flags = {"load.trace.file": file, "load.trace.format": "qwen", "load.requests": None, "client.workers": 2}
    return offer(url, **flags, **more)


def test_a_turn_waits_for_the_answer_before_it(serve: Callable[..., Endpoint], offer: Offer, tmp_path: Path) -> None:
    """Answers take 200 ms and more: the early turns are held back until they have ended, the late ones are not."""
    result = replay(offer, serve(ttft="200ms", itl="1ms").url, trace(tmp_path / "t.jsonl"))
    rows = np.sort(result.requests, order="index")
    assert statuses(rows) == {"ok": len(ROWS)}
    assert rows["session"].tolist() == [0, 1, 0, 0, 0, 1, 2]
    assert rows["turn"].tolist() == [0, 0, 1, 1, 2, 1, 0]
    np.testing.assert_array_equal(rows["worker"], rows["session"] % 2)
    start = json.loads((result.directory / "run.json").read_text())["start_ns"]
    own = start + np.rint(np.array([t for _, _, t in ROWS]) * 1e9).astype(np.int64)
    wanted = own.copy()
    for row, parent in PARENT.items():
        wanted[row] = max(own[row], rows["end"][parent])
    np.testing.assert_array_equal(rows["due"], wanted)
    held = (rows["flags"] & Flag.held_back) > 0
    assert held.tolist() == [False, False, True, True, True, False, False]
    found = result.summary.sessions
    assert found is not None
    assert (found.sessions, found.succeeded, found.held_back) == (3, 3, 3)
    assert set(result.summary.turns) == {"0", "1", "2"}


def test_a_chain_that_its_server_slows_down(serve: Callable[..., Endpoint], offer: Offer, tmp_path: Path) -> None:
    """Most turns are due after the trace's last time: the run goes on until they are through, and they are measured."""
    chain = [(chat, chat - 1, chat * 0.001) for chat in range(6)]
    result = replay(offer, serve(ttft="50ms").url, trace(tmp_path / "t.jsonl", chain), **{"load.drain": 0.2})
    rows = np.sort(result.requests, order="index")
    assert statuses(rows) == {"ok": 6}
    np.testing.assert_array_equal(rows["due"][1:], rows["end"][:-1])
    latency = result.summary.latency.ttft_ms
    assert latency is not None
    assert latency.n == 6
    assert result.summary.load.achieved_rate is not None
    assert result.summary.load.achieved_rate < 6 / 0.25  # over the time that it took, not over the trace's 5 ms


def test_a_duration_ends_the_trace_but_not_its_conversations(
    serve: Callable[..., Endpoint], offer: Offer, tmp_path: Path
) -> None:
    """Rows of times after it are left out; turns that wait when it ends follow as long as the drain lasts."""
    chain = [(chat, chat - 1, chat * 0.01) for chat in range(20)]
    file = trace(tmp_path / "t.jsonl", chain)
    url = serve(ttft="100ms").url
    rows = replay(offer, url, file, **{"load.duration": 0.035, "load.drain": 30.0}).requests
    assert statuses(rows) == {"ok": 4}
    rows = replay(offer, url, file, **{"load.duration": 0.1, "load.drain": 0.45}).requests
    found = statuses(rows)
    assert sum(found.values()) == 10
    assert found.keys() == {"ok", "cancelled", "never_sent"}
    assert found["cancelled"] == 1


def test_timed_turns_do_not_wait(serve: Callable[..., Endpoint], offer: Offer, tmp_path: Path) -> None:
    result = replay(
        offer, serve(ttft="200ms", itl="1ms").url, trace(tmp_path / "t.jsonl"), **{"load.trace.turns": "timed"}
    )
    rows = np.sort(result.requests, order="index")
    start = json.loads((result.directory / "run.json").read_text())["start_ns"]
    np.testing.assert_array_equal(rows["due"] - start, np.rint(np.array([t for _, _, t in ROWS]) * 1e9))
    assert rows["session"].tolist() == [0, 1, 0, 0, 0, 1, 2]
    assert statuses(rows) == {"ok": len(ROWS)}
    assert not (rows["flags"] & Flag.held_back).any()
    assert rows["end"][0] > rows["send"][2]  # the second turn went out while the first was being answered


def test_turns_go_on_after_a_failed_one(offer: Offer, tmp_path: Path) -> None:
    """The prompts are recorded: what follows an answer that failed is offered all the same, when it has failed."""

    def fail(peer: Peer, request: Request) -> None:
        if request.index in (0, 2):
            peer.send(whole(b"{}", b"503 Service Unavailable"))
        else:
            peer.send(stream(token(), FINISH, DONE))

    with OddServer(answering(fail)) as server:
        rows = np.sort(replay(offer, server.url, trace(tmp_path / "t.jsonl")).requests, order="index")
    assert statuses(rows) == {"ok": len(ROWS) - 2, "http_5xx": 2}


def test_a_turn_waits_for_the_last_attempt_of_the_one_before(offer: Offer, tmp_path: Path) -> None:
    seen: list[int] = []

    def refuse_once(peer: Peer, request: Request) -> None:
        seen.append(request.index)
        if request.index == 0 and seen.count(0) == 1:
            peer.send(whole(b"{}", b"503 Service Unavailable"))
        else:
            peer.send(stream(token(), FINISH, DONE))

    with OddServer(answering(refuse_once)) as server:
        rows = replay(offer, server.url, trace(tmp_path / "t.jsonl"), **{"client.retries": 2}).requests
    rows = np.sort(rows, order="index")
    assert statuses(rows) == {"ok": len(ROWS)}
    assert rows["attempt"].tolist() == [1, *[0] * (len(ROWS) - 1)]
    assert seen.count(0) == 2
    np.testing.assert_array_equal(rows["due"][2:4], [rows["end"][0]] * 2)
    assert (rows["send"][2:4] > rows["end"][0]).all()


def test_a_conversation_stays_with_its_target(serve: Callable[..., Endpoint], offer: Offer, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = [(0, -1, 0.0)]
    for chat in range(1, 150):
        rows.append((chat, int(rng.integers(0, chat)) if rng.random() < 0.8 else -1, chat * 0.002))
    urls = [serve().url, serve().url]
    file = trace(tmp_path / "t.jsonl", rows)
    for turns in ("after", "timed"):
        found = replay(offer, urls, file, **{"load.trace.turns": turns}).requests
        assert statuses(found) == {"ok": len(rows)}
        assert set(np.unique(found["target"])) == {0, 1}
        for session in np.unique(found["session"]):
            assert len(np.unique(found["target"][found["session"] == session])) == 1
    free = replay(offer, urls, file, **{"target.sticky": False}).requests
    assert abs(np.count_nonzero(free["target"]) - len(rows) / 2) <= 2  # in turn
