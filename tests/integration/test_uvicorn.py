"""A server that is not ours: Starlette on uvicorn, which closes idle connections by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llmgen.columns import Flag
from running import statuses

APP = """
import asyncio, json, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route


async def chat(request):
    asked = await request.json()
    words = asked.get("max_tokens", 5)
    usage = {"prompt_tokens": len(asked["messages"][0]["content"].split()), "completion_tokens": words}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "w " * words}
        return JSONResponse({"choices": [{"message": message, "finish_reason": "length"}], "usage": usage})

    async def events():
        for number in range(words):
            delta = {"content": f"w{number} "} if number else {"role": "assistant", "content": "w0 "}
            yield "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) + "\\n\\n"
            await asyncio.sleep(0.002)
        yield 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\\n\\n'
        yield "data: " + json.dumps({"choices": [], "usage": usage}) + "\\n\\n"
        yield "data: [DONE]\\n\\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def models(request):
    return JSONResponse({"data": [{"id": "starlette", "max_model_len": 4096}]})


routes = [Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)]
uvicorn.run(Starlette(routes=routes), fd=int(sys.argv[1]), timeout_keep_alive=int(sys.argv[2]), log_level="warning")
"""


@pytest.fixture
def uvicorn(tmp_path: Path) -> Iterator[object]:
    """``uvicorn(keep_alive)`` → url; its socket listens before the process is there, so that nobody has to wait."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    running: list[subprocess.Popen[bytes]] = []
    app = tmp_path / "app.py"
    app.write_text(APP)

    def start(keep_alive: int) -> str:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            os.set_inheritable(listener.fileno(), True)
            number = listener.fileno()
            command = [sys.executable, str(app), str(number), str(keep_alive)]
            running.append(subprocess.Popen(command, pass_fds=[number], start_new_session=True))
            port = listener.getsockname()[1]
        wait_for_answer(port)
        return f"http://127.0.0.1:{port}"

    yield start
    for process in running:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_answer(port: int) -> None:
    """The backlog takes the connection at once; the answer comes when the server is up."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("streaming", [True, False])
def test_a_run(offer, uvicorn, streaming):
    result = offer(uvicorn(5), **{"load.requests": 60, "workload.stream": streaming})
    rows = result.requests
    assert statuses(rows) == {"ok": 60}
    assert (rows["output_tokens"] == 8).all()
    assert (rows["input_tokens"] == 8).all()
    if streaming:
        assert (rows["token_events"] == 8).all()
        assert (rows["flags"] & Flag.done_seen != 0).all()
    info = json.loads((result.directory / "run.json").read_text())
    assert info["server"][0]["server"] == "uvicorn"
    assert info["server"][0]["max_model_len"] == 4096


def test_idle_connections_that_it_closes(offer, uvicorn):
    """Closed after a second without a request, with one every 1.3 s: nothing fails, each goes out afresh."""
    result = offer(uvicorn(1), **{"load.rate": 1 / 1.3, "load.requests": 4})
    assert statuses(result.requests) == {"ok": 4}
    assert len(set(result.requests["connection"].tolist())) == 4


@pytest.mark.full
def test_a_request_every_ten_seconds(offer, uvicorn):
    """Issue 2: 0.1 requests/s for 30 s without an error, against its own limit of 5 s."""
    started = time.monotonic()
    result = offer(uvicorn(5), **{"load.rate": 0.1, "load.requests": None, "load.duration": 30.0})
    assert time.monotonic() - started > 20
    assert statuses(result.requests) == {"ok": 3}
    np.testing.assert_array_equal(np.diff(result.requests["due"]), 10_000_000_000)
    assert result.exit_code == 0
