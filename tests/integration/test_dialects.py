"""Every API over a socket: its body and headers as sent, its stream, whole answer and errors as they are counted.

tests/fixtures holds the answers, written after the APIs' references; those of responses, messages, Ollama, TGI, SGLang
and llama.cpp are played by a server of the test, as fast as the socket takes them.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import llmgen
from llmgen.columns import Finish, Kind, OutputSource, Status
from llmgen.config import load_config, merge, plain
from odd_servers import OddServer, Peer, Request, always, answering, chunk, whole
from running import configuration, statuses

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXAMPLES = Path(__file__).parents[2] / "examples"
CUSTOM = {"tgi": "tgi", "sglang": "sglang-generate", "llamacpp": "llamacpp-completion"}


def api_flags(api: str) -> dict[str, Any]:
    """The keys that choose an API: its name, or the description that the example of a custom one holds."""
    if api not in CUSTOM:
        return {"target.api": api, "target.model": "odd"}
    config = load_config(EXAMPLES / f"{CUSTOM[api]}.yaml")
    return {"target.api": "custom", "target.custom": plain(config)["target"]["custom"]}


def answer_of(name: str, cut: int | None = None) -> bytes:
    """A whole HTTP answer with the bytes of a fixture; `cut`: only so many of them, and the end all the same."""
    body = (FIXTURES / name).read_bytes()[:cut]
    if name.endswith(".json"):
        return whole(body)
    kind = b"application/x-ndjson" if name.endswith(".ndjson") else b"text/event-stream; charset=utf-8"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n" % kind
    return head + (chunk(body) if body else b"") + b"0\r\n\r\n"


class Wanted(NamedTuple):
    """What a request row must hold, by hand; -1: not told."""

    token_events: int
    kinds: list[Kind]  # of the token events, in order
    input: int
    output: int
    reasoning: int
    cached: int
    finish: Finish


TEXT, THINK, TOOL = Kind.text, Kind.reasoning, Kind.tool
STREAMS: dict[tuple[str, str], Wanted] = {
    ("responses", "openai_responses.sse"): Wanted(4, [TEXT] * 4, 37, 11, 0, 16, Finish.stop),
    ("responses", "openai_responses_tools.sse"): Wanted(5, [THINK] * 2 + [TOOL] * 3, 37, 25, 8, 16, Finish.stop),
    # 25 read anew, 100 written to the cache, 2000 read from it
    ("messages", "anthropic_messages.sse"): Wanted(3, [TEXT] * 3, 2125, 15, -1, 2000, Finish.stop),
    ("messages", "anthropic_thinking_tools.sse"): Wanted(
        6, [THINK] * 2 + [TEXT] + [TOOL] * 3, 25, 89, -1, -1, Finish.tool_calls
    ),
    ("ollama", "ollama_chat.ndjson"): Wanted(3, [TEXT] * 3, 26, 5, -1, -1, Finish.stop),
    ("ollama", "ollama_thinking_tools.ndjson"): Wanted(3, [THINK] * 2 + [TOOL], 26, 21, -1, -1, Finish.stop),
    ("tgi", "tgi_generate.sse"): Wanted(3, [TEXT] * 3, 4, 3, -1, -1, Finish.length),
    ("sglang", "sglang_generate.sse"): Wanted(4, [TEXT] * 4, 7, 8, -1, 2, Finish.length),
    ("llamacpp", "llamacpp_completion.sse"): Wanted(3, [TEXT] * 3, 6, 3, -1, 2, Finish.length),
}
WHOLE: dict[tuple[str, str], Wanted] = {
    ("responses", "openai_responses.json"): Wanted(0, [], 37, 11, 0, 16, Finish.length),
    ("messages", "anthropic_messages.json"): Wanted(0, [], 16, 6, -1, 4, Finish.length),
    ("ollama", "ollama_chat.json"): Wanted(0, [], 26, 5, -1, -1, Finish.length),
    ("embeddings", "openai_embeddings.json"): Wanted(0, [], 8, -1, -1, -1, Finish.none),
    ("tgi", "tgi_generate.json"): Wanted(0, [], -1, 3, -1, -1, Finish.stop),
    ("sglang", "sglang_generate.json"): Wanted(0, [], 7, 2, -1, 2, Finish.stop),
    ("llamacpp", "llamacpp_completion.json"): Wanted(0, [], 6, 3, -1, 2, Finish.stop),
}


def run(tmp_path: Path, server: OddServer, api: str, **flags: Any) -> Any:
    config = configuration(server.url, tmp_path / "runs", **{"load.requests": 4, **api_flags(api), **flags})
    return llmgen.run(config, quiet=True)


def check(row: np.void, wanted: Wanted) -> None:
    assert Status(int(row["status"])) is Status.ok
    found = (row["input_tokens"], row["output_tokens"], row["reasoning_tokens"], row["cached_tokens"])
    assert found == (wanted.input, wanted.output, wanted.reasoning, wanted.cached)
    assert Finish(int(row["finish_reason"])) is wanted.finish
    assert row["token_events"] == wanted.token_events
    if wanted.output >= 0:
        assert OutputSource(int(row["output_source"])) is OutputSource.usage


@pytest.mark.parametrize(("api", "name"), STREAMS)
def test_a_stream(tmp_path: Path, api: str, name: str) -> None:
    wanted = STREAMS[api, name]
    with OddServer(always(answer_of(name))) as server:
        result = run(tmp_path, server, api)
    assert len(result.requests) == 4
    for number, row in enumerate(result.requests):
        check(row, wanted)
        events = result.events[result.events["request"] == number]
        tokens = [Kind(int(kind)) for kind in events["kind"] if kind & (TEXT | THINK | TOOL)]
        # a token event may bear the role, the finish reason or the usage, too
        assert [kind & (TEXT | THINK | TOOL) for kind in tokens] == wanted.kinds
    sent = server.posts[0]
    accepts = "application/x-ndjson" if api == "ollama" else "text/event-stream"
    assert sent.header("accept") == accepts


def test_sglang_tells_the_tokens_of_every_event(tmp_path: Path) -> None:
    with OddServer(always(answer_of("sglang_generate.sse"))) as server:
        result = run(tmp_path, server, "sglang")
    assert result.events["tokens"][result.events["request"] == 0].tolist() == [1, 1, 3, 3]
    assert result.requests["first_event_tokens"].tolist() == [1] * 4


@pytest.mark.parametrize(("api", "name"), WHOLE)
def test_a_whole_answer(tmp_path: Path, api: str, name: str) -> None:
    with OddServer(always(answer_of(name))) as server:
        result = run(tmp_path, server, api, **({} if api == "embeddings" else {"workload.stream": False}))
    for row in result.requests:
        check(row, WHOLE[api, name])
    assert server.posts[0].header("accept") == "application/json"


@pytest.mark.parametrize(
    ("api", "name", "status"),
    [
        ("responses", "openai_responses_failed.sse", Status.stream_error),
        ("messages", "anthropic_overloaded.sse", Status.stream_error),
        ("tgi", "tgi_error.sse", Status.stream_error),
    ],
)
def test_an_error_inside_of_a_stream(tmp_path: Path, api: str, name: str, status: Status) -> None:
    with OddServer(always(answer_of(name))) as server:
        result = run(tmp_path, server, api)
    assert set(result.requests["status"].tolist()) == {status}
    assert "errors.jsonl" in {path.name for path in result.directory.iterdir()}


def test_an_error_line(tmp_path: Path) -> None:
    body = b'{"message":{"role":"assistant","content":"a"},"done":false}\n{"error":"model runner stopped"}\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: %d\r\n\r\n" % len(body)
    with OddServer(always(head + body)) as server:
        result = run(tmp_path, server, "ollama")
    assert statuses(result.requests) == {"stream_error": 4}


@pytest.mark.parametrize(
    ("api", "name", "last"),
    [
        ("responses", "openai_responses.sse", b"event: response.completed"),
        # a stop reason alone is no end here: message_stop is promised
        ("messages", "anthropic_messages.sse", b"event: message_stop"),
        ("ollama", "ollama_chat.ndjson", b'{"model":"llama3.2","created_at":"2023-08-04T08:52:19.385406455-07:00",'
         b'"message":{"role":"assistant","content":""}'),
        ("tgi", "tgi_generate.sse", b'data:{"index":3'),
        ("sglang", "sglang_generate.sse", b'data: {"text":" Paris is the capital of France."'),
        ("llamacpp", "llamacpp_completion.sse", b'data: {"index":0,"content":""'),
    ],
)  # fmt: skip
def test_a_stream_without_its_end_is_cut(tmp_path: Path, api: str, name: str, last: bytes) -> None:
    cut = (FIXTURES / name).read_bytes().index(last)
    assert cut > 0
    with OddServer(always(answer_of(name, cut))) as server:
        result = run(tmp_path, server, api)
    assert statuses(result.requests) == {"stream_cut": 4}


@pytest.mark.parametrize(
    ("api", "answer", "status"),
    [
        ("messages", whole(b'{"type":"error","error":{"type":"rate_limit_error","message":"wait"}}', b"429 Too Many"),
         "rate_limited"),
        ("responses", whole(b'{"error":{"message":"no","type":"invalid_request_error","code":null}}', b"400 Bad"),
         "http_4xx"),
        ("ollama", whole(b'{"error":"model \'m\' not found"}', b"404 Not Found"), "http_4xx"),
        ("embeddings", whole(b'{"error":{"message":"boom","type":"server_error"}}', b"500 Oh"), "http_5xx"),
        ("embeddings", whole(b'{"object":"list","data":[],"usage":{"prompt_tokens":0}}'), "empty"),
        ("embeddings", whole(b'{"error":{"message":"inside of a 200"}}'), "stream_error"),
        ("messages", whole(b'{"type":"error","error":{"type":"api_error","message":"x"}}'), "stream_error"),
    ],
)  # fmt: skip
def test_errors_as_the_apis_write_them(tmp_path: Path, api: str, answer: bytes, status: str) -> None:
    with OddServer(always(answer)) as server:
        result = run(tmp_path, server, api)
    assert statuses(result.requests) == {status: 4}


# -- newline-delimited JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "piece"),
    [
        (b"application/x-ndjson", 1),
        (b"application/x-ndjson", 1 << 20),
        (b"application/ndjson; charset=utf-8", 50),
        (b"application/jsonl", 50),
        (b"text/plain", 50),
        (b"", 50),
    ],
)
def test_lines_cut_anywhere_the_last_without_an_end(tmp_path: Path, kind: bytes, piece: int) -> None:
    body = (FIXTURES / "ollama_chat.ndjson").read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n\n")
    typed = b"content-type: " + kind + b"\r\n" if kind else b""
    head = b"HTTP/1.1 200 OK\r\n" + typed + b"transfer-encoding: chunked\r\n\r\n"
    pieces = [chunk(body[at : at + piece]) for at in range(0, len(body), piece)]

    def answer(peer: Peer, _: Request) -> None:
        peer.send(head)
        for one in pieces:
            peer.send(one)
        peer.send(b"0\r\n\r\n")

    with OddServer(answering(answer)) as server:
        result = run(tmp_path, server, "ollama")
    for row in result.requests:
        check(row, STREAMS["ollama", "ollama_chat.ndjson"])


def test_a_line_that_is_cut_off_is_told(tmp_path: Path) -> None:
    body = (FIXTURES / "ollama_chat.ndjson").read_bytes()
    promised = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: %d\r\n\r\n" % len(body)

    def answer(peer: Peer, _: Request) -> None:
        peer.send(promised + body[:-20])
        peer.socket.close()

    with OddServer(answering(answer)) as server:
        result = run(tmp_path, server, "ollama", **{"load.requests": 1})
    assert statuses(result.requests) == {"eof": 1}
    assert result.requests["flags"][0] & llmgen.columns.Flag.truncated_event


def test_a_line_that_is_no_json(tmp_path: Path) -> None:
    body = b'{"message":{"content":"a"},"done":false}\nnonsense\n{"done":true}\n'
    with OddServer(always(whole(body, kind=b"application/x-ndjson"))) as server:
        result = run(tmp_path, server, "ollama")
    assert statuses(result.requests) == {"malformed_stream": 4}


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_bodies_and_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-1234")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-open-1234")
    with OddServer(always(answer_of("anthropic_messages.sse"))) as server:
        run(tmp_path, server, "messages", **{"target.model": None})
        sent = server.posts[0]
        asked = next(request for request in server.requests if request.method == "GET")
    assert sent.path == "/v1/messages"
    for request in (sent, asked):
        assert request.header("x-api-key") == "sk-ant-1234"
        assert request.header("anthropic-version") == "2023-06-01"
        assert request.header("authorization") is None
    assert asked.path == "/v1/models"
    body = sent.json()
    assert (body["model"], body["stream"], body["max_tokens"]) == ("odd", True, 8)
    assert len(body["messages"][0]["content"].split()) == 8
    with OddServer(always(answer_of("openai_responses.sse"))) as server:
        run(tmp_path, server, "responses")
        assert server.posts[0].header("authorization") == "Bearer sk-open-1234"
        assert server.posts[0].header("x-api-key") is None


def test_ollama_lists_its_models_elsewhere(tmp_path: Path) -> None:
    tags = b'{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest","size":1}]}'
    answer = answer_of("ollama_chat.ndjson")

    def handle(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.send(whole(tags) if request.method == "GET" else answer)

    with OddServer(handle) as server:
        result = run(tmp_path, server, "ollama", **{"target.model": None})
        assert [request.path for request in server.requests[:2]] == ["/api/tags", "/api/chat"]
        assert server.posts[0].json()["model"] == "llama3.2:latest"
    assert statuses(result.requests) == {"ok": 4}


@pytest.mark.parametrize("api", CUSTOM)
def test_an_example_runs_as_it_is(tmp_path: Path, api: str) -> None:
    name = next(name for one, name in STREAMS if one == api)
    config = load_config(EXAMPLES / f"{CUSTOM[api]}.yaml")
    with OddServer(always(answer_of(name))) as server:
        flags = {"target.urls": (server.url,), "load.duration": 0.5, "load.rate": 20.0, "out": str(tmp_path)}
        result = llmgen.run(merge(config, flags), quiet=True)
        body = server.posts[0].json()
    assert set(statuses(result.requests)) == {"ok"}
    assert 64 in [*body.values(), *body.get("parameters", {}).values(), *body.get("sampling_params", {}).values()]
    assert any(isinstance(value, str) and len(value.split()) == 256 for value in body.values())


def test_azure_by_path_query_and_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", "azure-1234")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-open-1234")
    path = "/openai/deployments/gpt/chat/completions"
    with OddServer(always(answer_of("openai_chat.sse"))) as server:
        flags = {
            "target.path": path,
            "target.query": {"api-version": "2024-10-21"},
            "target.headers": {"api-key": "env:AZURE_KEY"},
        }
        result = run(tmp_path, server, "chat", **flags)
        sent = server.posts[0]
    assert statuses(result.requests) == {"ok": 4}
    assert sent.path == path + "?api-version=2024-10-21"
    assert sent.header("api-key") == "azure-1234"
    assert sent.header("authorization") is None


def test_extras_of_vllm_and_sglang(tmp_path: Path) -> None:
    with OddServer(always(answer_of("vllm_chat.sse"))) as server:
        flags = {
            "workload.continuous_usage": True,
            "workload.exact_output": True,
            "workload.body": {"priority": 5, "chat_template_kwargs": {"enable_thinking": False}},
        }
        result = run(tmp_path, server, "chat", **flags)
        body = server.posts[0].json()
    assert statuses(result.requests) == {"ok": 4}
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (body["min_tokens"], body["ignore_eos"], body["priority"]) == (8, True, 5)


# -- targets ----------------------------------------------------------------------------------------------------------


def test_all_addresses_of_a_name_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, reached = answer_of("openai_chat.sse"), set()
    together = threading.Barrier(4)

    def answering_together(peer: Peer, _: Request) -> None:
        reached.add(peer.socket.getsockname()[0])
        together.wait(20)  # four requests at once need four connections
        peer.send(answer)

    def resolved(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "cluster.test"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (1, 2, 3)]

    with OddServer(answering(answering_together), host="0.0.0.0") as server:
        monkeypatch.setattr("llmgen.target.socket.getaddrinfo", resolved)
        flags = {"load.concurrency": 4, "load.requests": 4}
        result = llmgen.run(configuration(f"http://cluster.test:{server.port}", tmp_path / "runs", **flags), quiet=True)
    assert statuses(result.requests) == {"ok": 4}
    assert reached == {"127.0.0.1", "127.0.0.2", "127.0.0.3"}


@pytest.mark.parametrize(("balance", "least"), [("round-robin", 60), ("least-in-flight", 41), ("random", 40)])
def test_weights(tmp_path: Path, balance: str, least: int) -> None:
    answer = answer_of("openai_chat.sse")
    with OddServer(always(answer)) as one, OddServer(always(answer)) as other:
        flags = {"target.weights": (3, 1), "target.balance": balance, "load.requests": 80, "load.rate": 800.0}
        config = configuration([one.url, other.url], tmp_path / "runs", **flags)
        result = llmgen.run(config, quiet=True)
        counts = [len(server.posts) for server in (one, other)]
    assert statuses(result.requests) == {"ok": 80}
    assert sum(counts) == 80
    assert counts[0] >= least
    if balance == "round-robin":
        assert counts == [60, 20]
        order = result.requests["target"].tolist()
        assert all(order[at : at + 4].count(1) == 1 for at in range(0, 80, 4)), "turns are spread, not in blocks"
    for number, server in enumerate((one, other)):
        group = result.summary.targets[server.url]
        assert group.requests.scheduled == counts[number]
        assert group.latency.ttft_ms is not None
