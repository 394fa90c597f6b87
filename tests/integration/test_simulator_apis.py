"""The embedded endpoint speaks the other APIs as their references have them, and as llmgen reads them."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import llmgen
from llmgen.columns import Finish, Status
from llmgen.simulator import Endpoint, Options
from running import configuration, statuses

APIS = ("chat", "completions", "responses", "messages", "ollama")
PATHS = {"responses": "/v1/responses", "messages": "/v1/messages", "ollama": "/api/chat"}
MESSAGES = [{"role": "user", "content": "one two three"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "responses": {"input": "one two three", "max_output_tokens": 4},
    "messages": {"messages": MESSAGES, "max_tokens": 4},
    "ollama": {"messages": MESSAGES, "options": {"num_predict": 4}},
}
# Server-sent events besides one a token: of the opening and of the end.
AROUND = {"chat": 1 + 1, "completions": 0 + 1, "responses": 3 + 1, "messages": 2 + 3, "ollama": 0 + 1}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def post(endpoint: Endpoint, path: str, body: object, method: str = "POST") -> tuple[int, str, bytes]:
    """(status, content type, body)."""
    parts = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], answer.read()
    finally:
        connection.close()


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The data of typed events; the type stands in both places."""
    found = []
    for piece in body.decode().removesuffix("\n\n").split("\n\n"):
        event, data = piece.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert event == f"event: {found[-1]['type']}"
    return found


# -- as their references have it -------------------------------------------------------------------------------------


def test_a_stream_of_responses(endpoint: Endpoint) -> None:
    status, kind, body = post(endpoint, PATHS["responses"], {**REQUESTS["responses"], "stream": True, "model": "m"})
    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    events = events_of(body)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 4,
        "response.incomplete",
    ]
    assert [event["sequence_number"] for event in events] == list(range(8))
    assert len("".join(event.get("delta", "") for event in events).split()) == 4
    last = events[-1]["response"]
    assert (last["object"], last["status"], last["model"]) == ("response", "incomplete", "m")
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (3, 4)
    assert events[1]["item"]["id"] == events[3]["item_id"]


def test_a_stream_of_messages(endpoint: Endpoint) -> None:
    status, kind, body = post(endpoint, PATHS["messages"], {**REQUESTS["messages"], "stream": True})
    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    events = events_of(body)
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 3
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert events[-2]["usage"] == {"output_tokens": 4}
    assert len("".join(event["delta"]["text"] for event in events[2:6]).split()) == 4


def test_a_stream_of_ollama(endpoint: Endpoint) -> None:
    status, kind, body = post(endpoint, PATHS["ollama"], REQUESTS["ollama"])  # streams unless told otherwise
    assert (status, kind) == (200, "application/x-ndjson")
    *tokens, last = [json.loads(line) for line in body.decode().splitlines()]
    assert len(tokens) == 4
    assert not any(line["done"] for line in tokens)
    assert len("".join(line["message"]["content"] for line in tokens).split()) == 4
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "length", "")
    assert (last["prompt_eval_count"], last["eval_count"]) == (3, 4)


def test_whole_answers(endpoint: Endpoint) -> None:
    answers = {}
    for api, request in REQUESTS.items():
        status, kind, body = post(endpoint, PATHS[api], {**request, "stream": False})
        assert (status, kind) == (200, "application/json")
        answers[api] = json.loads(body)
    response, message, ollama = answers["responses"], answers["messages"], answers["ollama"]
    (item,) = response["output"]
    assert len(item["content"][0]["text"].split()) == 4
    assert response["usage"]["output_tokens"] == 4
    assert len(message["content"][0]["text"].split()) == 4
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 4)
    assert len(ollama["message"]["content"].split()) == 4
    assert (ollama["done"], ollama["eval_count"]) == (True, 4)


def test_embeddings(endpoint: Endpoint) -> None:
    request = {"input": ["one two", "three"], "model": "m", "dimensions": 5, "stream": True}
    status, kind, body = post(endpoint, "/v1/embeddings", request)
    assert (status, kind) == (200, "application/json")
    told = json.loads(body)
    assert (told["object"], told["model"], told["usage"]) == ("list", "m", {"prompt_tokens": 3, "total_tokens": 3})
    assert [(one["object"], one["index"], len(one["embedding"])) for one in told["data"]] == [
        ("embedding", 0, 5),
        ("embedding", 1, 5),
    ]
    assert all(0.1 <= abs(number) < 1 for one in told["data"] for number in one["embedding"])
    assert post(endpoint, "/v1/embeddings", {"input": "x", "dimensions": 4096})[0] == 200
    status, _, body = post(endpoint, "/v1/embeddings", {"input": []})
    assert (status, json.loads(body)["error"]["type"]) == (400, "invalid_request_error")


def test_refusals_in_the_apis_own_forms(endpoint: Endpoint) -> None:
    for api, path in PATHS.items():
        status, _, body = post(endpoint, path, {})
        assert status == 400
        told = json.loads(body)
        if api == "ollama":
            assert isinstance(told["error"], str)
        else:
            assert told["error"]["type"] == "invalid_request_error"
        assert ("type" in told) == (api == "messages")
        assert post(endpoint, path, None, "GET")[0] == 405
    status, _, body = post(endpoint, "/api/tags", None, "GET")
    assert (status, json.loads(body)) == (200, {"models": [{"name": "simulated"}]})


# -- as llmgen reads it ----------------------------------------------------------------------------------------------


def run(url: str, out: Path, api: str, **flags: Any) -> Any:
    return llmgen.run(configuration(url, out / "runs", **{"target.api": api, "load.requests": 8, **flags}), quiet=True)


@pytest.mark.parametrize("http", ["1.1", "2"])
@pytest.mark.parametrize("api", APIS)
def test_a_run(tmp_path: Path, endpoint: Endpoint, api: str, http: str) -> None:
    result = run(endpoint.url, tmp_path, api, **{"target.http": http})
    rows = result.requests
    assert statuses(rows) == {"ok": 8}
    assert set(rows["input_tokens"].tolist()) == set(rows["output_tokens"].tolist()) == {8}
    assert set(rows["token_events"].tolist()) == {8}
    assert set(rows["events"].tolist()) == {8 + AROUND[api]}
    assert set(rows["finish_reason"].tolist()) == {Finish.length}


@pytest.mark.parametrize("api", APIS)
def test_a_run_of_whole_answers(tmp_path: Path, endpoint: Endpoint, api: str) -> None:
    rows = run(endpoint.url, tmp_path, api, **{"workload.stream": False}).requests
    assert statuses(rows) == {"ok": 8}
    assert set(rows["input_tokens"].tolist()) == set(rows["output_tokens"].tolist()) == {8}


@pytest.mark.parametrize("http", ["1.1", "2"])
@pytest.mark.parametrize("engine", [None, "tiny"])
def test_a_run_of_embeddings(tmp_path: Path, http: str, engine: str | None) -> None:
    with Endpoint(Options(ttft="20ms", engine=engine)) as endpoint:
        result = run(endpoint.url, tmp_path, "embeddings", **{"target.http": http})
    rows = result.requests
    assert statuses(rows) == {"ok": 8}
    assert set(rows["input_tokens"].tolist()) == {8}
    assert result.summary.tokens.input == 64
    assert result.summary.latency.e2e_ms.p50 > (1 if engine else 20)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("empty", Status.empty),
        ("error-event", Status.http_5xx),
        ("malformed", Status.malformed_stream),
        ("429", Status.rate_limited),
        ("no-usage", Status.ok),
    ],
)
def test_faults_of_embeddings(tmp_path: Path, fault: str, status: Status) -> None:
    with Endpoint(Options(ttft="2ms", fault=(f"{fault}:1",))) as endpoint:
        rows = run(endpoint.url, tmp_path, "embeddings", **{"load.requests": 4}).requests
    assert set(rows["status"].tolist()) == {status}


@pytest.mark.parametrize("api", ["responses", "messages", "ollama"])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("cut", Status.stream_cut),
        ("error-event", Status.stream_error),
        ("malformed", Status.malformed_stream),
        ("eof", Status.eof),
        ("empty", Status.empty),
        ("429", Status.rate_limited),
        ("crlf", Status.ok),
        ("split", Status.ok),
        ("no-usage", Status.ok),
    ],
)
def test_faults(tmp_path: Path, api: str, fault: str, status: Status) -> None:
    with Endpoint(Options(ttft="2ms", itl="1ms", fault=(f"{fault}:1",))) as endpoint:
        rows = run(endpoint.url, tmp_path, api, **{"load.requests": 4}).requests
    assert set(rows["status"].tolist()) == {status}
    if status is Status.ok:
        assert set(rows["output_tokens"].tolist()) == {8}
