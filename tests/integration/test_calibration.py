"""Exact lengths through a server's /tokenize, in the forms of several servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmgen.config import RunConfig, Target, Workload
from llmgen.errors import ConfigError, TargetError
from llmgen.preparing import prepare
from llmgen.workload.words import COMMON_WORDS

SPLIT = set(COMMON_WORDS[3::7])
Answer = Callable[[dict[str, Any]], tuple[int, Any]]


def tokens(text: str) -> list[int]:
    return [1] * sum(1 + (word in SPLIT) for word in text.split())


def vllm(question: dict[str, Any]) -> tuple[int, Any]:
    if "messages" in question:
        found = tokens(" ".join(m["content"] for m in question["messages"])) + [0] * 11
    elif "prompt" in question and question.get("add_special_tokens") is False:
        found = tokens(question["prompt"])
    else:
        return 400, {"error": "neither"}
    return 200, {"count": len(found), "max_model_len": 4096, "tokens": found}


def llamacpp(question: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"tokens": tokens(question.get("content", "")) if "content" in question else None}


def tgi(question: dict[str, Any]) -> tuple[int, Any]:
    if "inputs" not in question:
        return 422, {"error": "missing field `inputs`"}
    return 200, [{"id": 1, "text": "x", "start": 0, "stop": 1} for _ in tokens(question["inputs"])]


@pytest.fixture
def server() -> Iterator[Callable[[Answer], str]]:
    running: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one write, or each answer waits for a delayed acknowledgement

            def reply(self, status: int, found: Any) -> None:
                body = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": "served"}]})

            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.path == "/tokenize"
                status, found = answer(question)
                if status:
                    self.reply(status, found)
                else:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        one = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        one.daemon_threads = True
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
        running.append(one)
        return f"http://127.0.0.1:{one.server_port}/v1"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize(("answer", "template"), [(vllm, 11), (llamacpp, 0), (tgi, 0)])
def test_the_servers_own_count_decides(server: Callable[[Answer], str], answer: Answer, template: int) -> None:
    config = RunConfig(target=Target(urls=(server(answer),)), workload=Workload(tokenizer="server"))
    found = prepare(config, {}).tokens
    assert found is not None
    assert set(found.vocabulary.words) == set(COMMON_WORDS) - SPLIT
    assert found.vocabulary.template_tokens == template
    assert not set(found.vocabulary.heads) & SPLIT


def test_a_template_that_is_told_is_not_asked_for(server: Callable[[Answer], str]) -> None:
    workload = Workload(tokenizer="server", template_tokens=3)
    found = prepare(RunConfig(target=Target(urls=(server(vllm),)), workload=workload), {}).tokens
    assert found is not None
    assert found.vocabulary.template_tokens == 3


@pytest.mark.parametrize("found", [(404, {}), (200, {"count": None}), (200, "x"), (500, None)])
def test_a_server_that_counts_nothing(server: Callable[[Answer], str], found: tuple[int, Any]) -> None:
    config = RunConfig(target=Target(urls=(server(lambda _: found),)), workload=Workload(tokenizer="server"))
    with pytest.raises(ConfigError, match=r"workload\.tokenizer='server': .* has no /tokenize that counts tokens"):
        prepare(config, {})


def test_a_server_that_hangs_up(server: Callable[[Answer], str]) -> None:
    config = RunConfig(target=Target(urls=(server(lambda _: (0, None)),)), workload=Workload(tokenizer="server"))
    with pytest.raises(TargetError, match="/tokenize failed"):
        prepare(config, {})
