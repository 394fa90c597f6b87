"""`llmgen check` sends each class at its shortest and its longest, and tells what became of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmgen.checks import Level, check
from llmgen.checks.findings import Report
from llmgen.config import RunConfig, merge
from llmgen.simulator import Endpoint
from odd_servers import GOOD, OddServer, Peer, Request, answering, whole

MIX = {
    "short": {"input": "uniform:5,90", "output": "uniform:3,12", "body": {"temperature": 0.5}},
    "long": {"input": 400, "output": 20, "stream": False},
}
LIMIT = 300  # words
TOO_LONG = b'{"error":{"message":"the context is too short"}}'


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def looked_at(url: str, **flags: Any) -> Report:
    return check(merge(RunConfig(), {"target.urls": (url,), "workload.exact_output": True, **flags}))


def lengths(report: Report) -> dict[str, Any]:
    return {one.name: one for one in report.checks if one.group == "Lengths"}


def test_both_ends_of_each_class_are_sent(serve: Callable[..., Endpoint]) -> None:
    found = lengths(looked_at(serve().url, **{"workload.mix": MIX, "load.rate": 100.0}))
    assert set(found) == {"short", "long"}
    assert all(one.level is Level.ok for one in found.values())
    shortest, longest = found["short"].data["requests"]
    assert 5 <= shortest["input"] < 15
    assert 80 < longest["input"] <= 90
    for one in (shortest, longest, *found["long"].data["requests"]):
        assert (one["input_got"], one["output_got"]) == (one["input"], one["output"])
    assert (shortest["output"], longest["output"]) == (3, 12)
    assert len(found["long"].data["requests"]) == 1  # always the same: once


def test_a_prompt_that_does_not_fit_fails_the_check() -> None:
    def answer(peer: Peer, request: Request) -> None:
        words = len(request.json()["messages"][0]["content"].split())
        if words > LIMIT:
            peer.send(whole(TOO_LONG, b"400 Bad Request"))
        else:
            peer.send(GOOD)

    with OddServer(answering(answer)) as server:
        report = looked_at(server.url, **{"workload.mix": MIX})
        bodies = [json.loads(request.body) for request in server.posts]
    found = lengths(report)
    assert report.exit_code == 2
    assert found["long"].level is Level.fail
    assert "refused, http_4xx (400): " in found["long"].found
    assert "the context is too short" in found["long"].found
    assert found["short"].level is Level.ok
    assert "got 7 in, 3 out" in found["short"].found  # what the server said, whatever was asked
    assert [body.get("temperature") for body in bodies[1:]] == [0.5, 0.5, None]
    assert bodies[-1]["stream"] is False


def test_a_server_that_breaks_on_them_is_a_warning() -> None:
    def answer(peer: Peer, request: Request) -> None:
        long = len(request.body) > 1000
        peer.send(whole(b"{}", b"500 Internal Server Error") if long else GOOD)

    with OddServer(answering(answer)) as server:
        report = looked_at(server.url, **{"workload.input": 400, "workload.output": 4})
    found = lengths(report)["default"]
    assert found.level is Level.warn
    assert report.exit_code == 0
    assert "failed, http_5xx (500)" in found.found


def test_sessions_are_sent_at_the_length_of_their_prompts(serve: Callable[..., Endpoint]) -> None:
    sessions = {"turns": 3, "first_input": 20, "input": 10, "output": 6}
    found = lengths(looked_at(serve().url, **{"workload.sessions": sessions}))["default"]
    assert [one["input"] for one in found.data["requests"]] == [20, 20 + 2 * (6 + 10)]
    assert found.level is Level.ok


def test_a_target_that_is_not_there_gets_none_of_it() -> None:
    with OddServer(answering(lambda peer, _: peer.send(whole(b"{}", b"401 Unauthorized")))) as server:
        report = looked_at(server.url)
        assert len(server.posts) == 1
    assert not lengths(report)


def test_shared_beginnings_are_part_of_it_and_own_data_is_left_out(
    serve: Callable[..., Endpoint], tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("what is that\n")
    mix = {
        "shared": {"input": 60, "output": 5, "prefix": {"tokens": 50, "pool": 2}},
        "own": {"data": {"file": str(tmp_path / "prompts.txt")}, "output": 5},
    }
    found = lengths(looked_at(serve().url, **{"workload.mix": mix}))
    assert set(found) == {"shared"}
    assert found["shared"].data["requests"][0]["input_got"] == 60
