"""Sessions over the wire: prompts that quote what was really said, think times, and turns after a failed one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmgen.columns import Status
from llmgen.simulator import Endpoint
from odd_servers import DONE, FINISH, OddServer, Peer, Request, answering, stream, token, whole
from running import Offer, statuses

MS = 1_000_000
TURNS = 3
REQUESTS = 24
SESSIONS: dict[str, Any] = {"turns": TURNS, "think": "20ms", "output": 6, "system": 5}
FLAGS: dict[str, Any] = {"workload.sessions": SESSIONS, "load.requests": REQUESTS, "client.workers": 2}


def answer_of(index: int) -> str:
    """What a JSON string cannot hold as it is, and letters of two, three and four bytes."""
    return f'"{index}"\\ \n\t/ ü 語 😀'


def speak(peer: Peer, request: Request) -> None:
    text = answer_of(request.index)
    peer.send(stream(token(text[:5]), token(text[5:]), FINISH, DONE))


def test_each_turn_quotes_the_answers_before_it(offer: Offer) -> None:
    with OddServer(answering(speak)) as server:
        rows = offer(server.url, **FLAGS).requests
        asked = {request.index: json.loads(request.body)["messages"] for request in server.posts}
    assert statuses(rows) == {"ok": REQUESTS}
    assert set(np.unique(rows["worker"])) == {0, 1}
    for row in rows:
        index, turn = int(row["index"]), int(row["turn"])
        messages = asked[index]
        assert [one["role"] for one in messages] == ["system", *["user", "assistant"] * turn, "user"]
        quoted = [one["content"] for one in messages if one["role"] == "assistant"]
        assert quoted == [answer_of(earlier) for earlier in range(index - turn, index)]
        if turn:
            assert messages[:-2] == asked[index - 1]
    assert (rows["body_bytes"] > 0).all()


@pytest.mark.parametrize("http", ["1.1", "2"])
def test_turns_follow_after_their_think_time(endpoint: Endpoint, offer: Offer, http: str) -> None:
    exact = {"workload.exact_output": True, "target.http": http, "slo": ["ttft<5s", "goodput>=0.5"]}
    result = offer(endpoint.url, **FLAGS, **exact)
    rows = np.sort(result.requests, order="index")
    assert statuses(rows) == {"ok": REQUESTS}
    later = np.flatnonzero(rows["turn"] > 0)
    np.testing.assert_array_equal(rows["due"][later], rows["end"][later - 1] + 20_000_000)
    np.testing.assert_array_equal(rows["session"][later], rows["session"][later - 1])
    np.testing.assert_array_equal(rows["worker"][later], rows["worker"][later - 1])
    # The endpoint counts the words of all messages: history at the lengths that were planned.
    np.testing.assert_array_equal(rows["input_tokens"], rows["planned_input"])
    found = result.summary.sessions
    assert found is not None
    assert (found.sessions, found.succeeded) == (REQUESTS // TURNS,) * 2
    assert found.goodput == 1.0
    assert set(result.summary.turns) == {"0", "1", "2"}
    assert result.summary.verdict.status != "invalid"


def test_a_failed_turn_ends_its_session(offer: Offer) -> None:
    """Session 1 (requests 3, 4, 5) fails in its second turn."""

    def fail(peer: Peer, request: Request) -> None:
        if request.index == TURNS + 1:
            peer.send(whole(b"{}", b"500 Internal Server Error"))
        else:
            speak(peer, request)

    with OddServer(answering(fail)) as server:
        result = offer(server.url, **FLAGS)
    rows = np.sort(result.requests, order="index")
    assert statuses(rows) == {"ok": REQUESTS - 2, "http_5xx": 1, "never_sent": 1}
    assert rows["status"][TURNS + 1] == Status.http_5xx
    assert rows["status"][TURNS + 2] == Status.never_sent
    found = result.summary.sessions
    assert found is not None
    assert (found.sessions, found.succeeded) == (REQUESTS // TURNS, REQUESTS // TURNS - 1)
    assert not any("offered load" in reason for reason in result.summary.verdict.reasons)


@pytest.mark.parametrize("api", ["messages", "ollama"])
def test_other_apis_that_take_messages(serve: Callable[..., Endpoint], offer: Offer, api: str) -> None:
    rows = offer(serve().url, **FLAGS, **{"target.api": api}).requests
    assert statuses(rows) == {"ok": REQUESTS}
    assert set(np.unique(rows["turn"])) == {0, 1, 2}


def test_agents_bring_the_results_of_tools(offer: Offer) -> None:
    agents = {**FLAGS, "workload.sessions": {**SESSIONS, "role": "tool"}}
    with OddServer(answering(speak)) as server:
        rows = offer(server.url, **agents).requests
        asked = {request.index: json.loads(request.body)["messages"] for request in server.posts}
    assert statuses(rows) == {"ok": REQUESTS}
    for row in rows[rows["turn"] > 0]:
        called, brought = asked[int(row["index"])][-2:]
        assert called["content"] == answer_of(int(row["index"]) - 1)
        assert brought["tool_call_id"] == called["tool_calls"][0]["id"]


def test_a_duration_ends_the_beginning_of_sessions(endpoint: Endpoint, offer: Offer) -> None:
    """Turns follow after it, as long as the drain lasts."""
    rows = offer(
        endpoint.url,
        **{**FLAGS, "load.requests": None, "load.duration": 0.1, "workload.sessions": {**SESSIONS, "think": "150ms"}},
    ).requests
    assert statuses(rows) == {"ok": len(rows)}
    assert set(np.unique(rows["turn"])) == {0, 1, 2}
    assert len(rows) == 20 * TURNS


CLOSED: dict[str, Any] = {**FLAGS, "load.rate": None, "load.arrival": "closed", "load.concurrency": 4}


def under_way(rows: np.ndarray) -> int:
    """The most conversations that were under way at one time, from the first due to the last end."""
    sessions = [rows[rows["session"] == number] for number in np.unique(rows["session"])]
    begins = [(int(one["due"].min()), 1) for one in sessions]
    ends = [(int(one["end"].max()), -1) for one in sessions]
    return int(np.cumsum([change for _, change in sorted(begins + ends)]).max())


@pytest.mark.parametrize("http", ["1.1", "2"])
def test_a_closed_loop_of_conversations(endpoint: Endpoint, offer: Offer, http: str) -> None:
    """The next begins when one has ended; think times are within."""
    told = {**SESSIONS, "turns": "uniform:1,5", "think": "10ms"}
    rows = offer(
        endpoint.url, **{**CLOSED, "load.requests": 120, "workload.sessions": told, "target.http": http}
    ).requests
    rows = np.sort(rows, order="index")
    assert statuses(rows) == {"ok": 120}
    assert set(np.unique(rows["worker"])) == {0, 1}
    later = np.flatnonzero(rows["turn"] > 0)
    np.testing.assert_array_equal(rows["due"][later], rows["end"][later - 1] + 10 * MS)
    np.testing.assert_array_equal(rows["worker"][later], rows["worker"][later - 1])
    assert under_way(rows) == 4
    # but for the first four, every conversation begins at the very end of another one of its worker
    last = np.append(rows["turn"][1:] == 0, True)
    ends = {(int(row["worker"]), int(row["end"])) for row in rows[last]}
    begins = [(int(row["worker"]), int(row["due"])) for row in rows[rows["turn"] == 0]]
    assert sum(begin in ends for begin in begins) == len(begins) - 4


def test_conversations_of_a_closed_loop_end_in_the_drain(endpoint: Endpoint, offer: Offer) -> None:
    """None begins after the duration; those under way go on as long as the drain lasts, and no longer."""
    told = {**CLOSED, "load.requests": None, "load.duration": 0.2}
    told["workload.sessions"] = {**SESSIONS, "turns": 4, "think": "100ms"}
    rows = offer(endpoint.url, **told).requests
    assert statuses(rows) == {"ok": len(rows)}
    assert len(rows) == 4 * 4
    result = offer(endpoint.url, **told, **{"load.drain": 0.05})
    found = statuses(result.requests)
    assert sum(found.values()) == 4 * 4
    assert found.keys() == {"ok", "never_sent"}
    assert found["ok"] >= 4


def test_a_failed_turn_frees_its_slot(offer: Offer) -> None:
    def fail(peer: Peer, request: Request) -> None:
        if request.index % 4 == 1:
            peer.send(whole(b"{}", b"500 Internal Server Error"))
        else:
            speak(peer, request)

    told = {**CLOSED, "load.requests": 40, "load.concurrency": 2}
    told["workload.sessions"] = {**SESSIONS, "turns": 4, "think": "1ms"}
    with OddServer(answering(fail)) as server:
        rows = offer(server.url, **told).requests
    assert statuses(rows) == {"ok": 10, "http_5xx": 10, "never_sent": 20}


def test_a_closed_loop_that_is_aborted(offer: Offer) -> None:
    """Nothing more is sent, no later turn either; what was begun is accounted for to its last turn."""

    def refuse(peer: Peer, request: Request) -> None:
        if request.index % TURNS:
            peer.send(whole(b"{}", b"429 Too Many Requests"))
        else:
            speak(peer, request)

    told = {**CLOSED, "load.requests": None, "load.duration": 20.0, "client.abort_on": "error_rate>20% for 200ms"}
    with OddServer(answering(refuse)) as server:
        result = offer(server.url, **told)
    rows = result.requests
    found = statuses(rows)
    assert found["rate_limited"] > 0
    assert len(rows) % TURNS == 0
    # a session's turns are all there, each with an end of its own
    assert set(np.unique(rows["session"], return_counts=True)[1]) == {TURNS}


@pytest.mark.parametrize("sticky", [True, False])
def test_several_targets(serve: Callable[..., Endpoint], offer: Offer, sticky: bool) -> None:
    """A session's turns stay with one target, or are balanced like any request; the answers are quoted in both."""
    told = {**FLAGS, "target.sticky": sticky, "workload.exact_output": True}
    rows = offer([serve().url, serve().url], **told).requests
    assert statuses(rows) == {"ok": REQUESTS}
    np.testing.assert_array_equal(rows["input_tokens"], rows["planned_input"])
    assert set(np.unique(rows["target"])) == {0, 1}
    spread = [len(np.unique(rows["target"][rows["session"] == number])) for number in np.unique(rows["session"])]
    assert (max(spread) == 1) is sticky
