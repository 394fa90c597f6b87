"""The embedded endpoint on the wire, seen by clients that are not ours: http.client and raw sockets."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgen.errors import ConfigError, TargetError
from llmgen.simulator import Endpoint, Options, Service
from llmgen.simulator.truth import gaps, read_truth, timing

WAIT = 20.0  # bound of every wait; none is expected to come near it
QUICK = {"ttft": "1ms", "itl": "1ms"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Service]:
    with Service(Options(**QUICK)) as running:
        yield running


def connect(endpoint: Service | Endpoint) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=WAIT)


def post(
    endpoint: Service | Endpoint | http.client.HTTPConnection, path: str = "/v1/chat/completions", **members: Any
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = connect(endpoint) if isinstance(endpoint, (Service, Endpoint)) else endpoint
    headers = members.pop("headers", {})
    connection.request("POST", path, json.dumps(members), headers)
    response = connection.getresponse()
    answer = response.status, response.headers, response.read()
    if isinstance(endpoint, (Service, Endpoint)):
        connection.close()
    return answer


def hello(**members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "well hello there"}], **members}


def events(body: bytes) -> list[dict[str, Any]]:
    """The events of a whole stream; it must end in [DONE]."""
    pieces = body.decode().split("\n\n")
    assert pieces[-2:] == ["data: [DONE]", ""]
    return [json.loads(piece.removeprefix("data: ")) for piece in pieces[:-2]]


def address(endpoint: Service | Endpoint) -> tuple[str, int]:
    host, port = endpoint.url.removeprefix("http://").split(":")
    return host, int(port)


def exchange(endpoint: Service | Endpoint, data: bytes) -> bytes:
    """Sends raw bytes and reads until the endpoint closes."""
    with socket.create_connection(address(endpoint), timeout=WAIT) as connection:
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def raw_post(body: bytes, extra: str = "") -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def test_chat_stream(endpoint: Service | Endpoint) -> None:
    status, headers, body = post(endpoint, **hello(stream=True, max_tokens=5))
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    first, *tokens = events(body)
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert [event["choices"][0]["finish_reason"] for event in tokens] == [None] * 4 + ["length"]
    text = "".join(event["choices"][0]["delta"]["content"] for event in tokens)
    assert len(text.split()) == 5
    assert text == text.strip()
    assert {event["id"] for event in tokens} == {first["id"]}
    assert {event["object"] for event in tokens} == {"chat.completion.chunk"}
    assert {event["model"] for event in tokens} == {"m"}


def test_completions_stream(endpoint: Service | Endpoint) -> None:
    status, _, body = post(endpoint, "/v1/completions", model="m", prompt="a b", stream=True, max_tokens=3)
    assert status == 200
    tokens = events(body)
    assert len(tokens) == 3
    assert len("".join(event["choices"][0]["text"] for event in tokens).split()) == 3
    assert tokens[-1]["object"] == "text_completion"


def test_usage_event(endpoint: Service | Endpoint) -> None:
    _, _, body = post(endpoint, **hello(stream=True, max_tokens=4, stream_options={"include_usage": True}))
    *tokens, usage = events(body)
    assert len(tokens) == 5
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_continuous_usage(endpoint: Service | Endpoint) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    _, _, body = post(endpoint, **hello(stream=True, max_tokens=4, stream_options=options))
    assert [event["usage"]["completion_tokens"] for event in events(body)] == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_whole_answers(endpoint: Service | Endpoint, path: str) -> None:
    status, headers, body = post(endpoint, path, **hello(prompt="one two", max_tokens=6))
    assert (status, headers["content-type"]) == (200, "application/json")
    answer = json.loads(body)
    choice = answer["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    assert len(text.split()) == 6
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["prompt_tokens"] == (3 if "chat" in path else 2)


def test_streamed_and_whole_answers_have_the_same_words(endpoint: Service | Endpoint) -> None:
    members = hello(max_tokens=20, headers={"x-request-id": "run-5"})
    _, _, whole = post(endpoint, **dict(members))
    _, _, stream = post(endpoint, **dict(members), stream=True)
    text = "".join(event["choices"][0]["delta"]["content"] for event in events(stream))
    assert json.loads(whole)["choices"][0]["message"]["content"] == text


def test_length_without_max_tokens(endpoint: Service | Endpoint) -> None:
    answer = json.loads(post(endpoint, **hello())[2])
    assert answer["usage"]["completion_tokens"] == 128
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_output_tokens_and_max_tokens() -> None:
    with Service(Options(ttft="0", itl="0", output_tokens="uniform:10,30")) as endpoint:
        connection = connect(endpoint)
        for _ in range(20):
            usage, finish = length(post(connection, **hello()))
            assert 10 <= usage <= 30
            assert finish == "stop"
            usage, finish = length(post(connection, **hello(max_tokens=9)))
            assert (usage, finish) == (9, "length")
            usage, finish = length(post(connection, **hello(max_tokens=100, ignore_eos=True)))
            assert (usage, finish) == (100, "length")
            usage, finish = length(post(connection, **hello(max_tokens=100, min_tokens=50)))
            assert (usage, finish) == (50, "stop")
        connection.close()


def length(answer: tuple[int, http.client.HTTPMessage, bytes]) -> tuple[int, str]:
    document = json.loads(answer[2])
    return document["usage"]["completion_tokens"], document["choices"][0]["finish_reason"]


def test_tokens_per_event() -> None:
    with Service(Options(**QUICK, tokens_per_event="3")) as endpoint:
        _, _, body = post(endpoint, **hello(stream=True, max_tokens=7))
    tokens = events(body)[1:]
    assert [len(event["choices"][0]["delta"]["content"].split()) for event in tokens] == [3, 3, 1]


def test_models_health_and_what_does_not_exist(endpoint: Service | Endpoint) -> None:
    connection = connect(endpoint)
    answers = []
    for method, path in [
        ("GET", "/v1/models"),
        ("GET", "/health"),
        ("GET", "/v1/nothing?x=1"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("HEAD", "/v1/models"),
    ]:
        connection.request(method, path)
        response = connection.getresponse()
        answers.append((response.status, response.read()))
    connection.close()
    assert [status for status, _ in answers] == [200, 200, 404, 405, 405, 200]
    models = json.loads(answers[0][1])
    assert [model["id"] for model in models["data"]] == ["simulated"]
    assert json.loads(answers[2][1])["error"]["code"] == 404
    assert answers[5][1] == b""


def test_only_the_given_models() -> None:
    with Service(Options(**QUICK, models=("a", "b"))) as endpoint:
        assert post(endpoint, **hello(model="b", max_tokens=1))[0] == 200
        assert post(endpoint, **hello(model="c", max_tokens=1))[0] == 404
        connection = connect(endpoint)
        connection.request("GET", "/v1/models")
        assert [model["id"] for model in json.loads(connection.getresponse().read())["data"]] == ["a", "b"]
        connection.close()


@pytest.mark.parametrize(
    ("body", "word"), [(b"{", "JSON"), (b"[]", "object"), (b"{}", "messages"), (b'{"max_tokens": 0}', "max_tokens")]
)
def test_bad_bodies_are_400_and_keep_the_connection(endpoint: Service | Endpoint, body: bytes, word: str) -> None:
    connection = connect(endpoint)
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()
    assert response.status == 400
    assert word in json.loads(response.read())["error"]["message"]
    assert post(connection, **hello(max_tokens=1))[0] == 200
    connection.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70000, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_malformed_requests_are_refused_and_closed(endpoint: Service | Endpoint, data: bytes, status: int) -> None:
    answer = exchange(endpoint, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in answer


def test_requests_may_come_in_any_pieces(endpoint: Service | Endpoint) -> None:
    body = json.dumps(hello(max_tokens=2)).encode()
    data = raw_post(body) + raw_post(body, "Connection: close\r\n")
    with socket.create_connection(address(endpoint), timeout=WAIT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            connection.sendall(bytes([byte]))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_pipelined_requests_are_answered_in_order(endpoint: Service | Endpoint) -> None:
    data = b"".join(raw_post(json.dumps(hello(max_tokens=n)).encode()) for n in range(1, 30))
    data += raw_post(json.dumps(hello(max_tokens=30)).encode(), "Connection: close\r\n")
    received = exchange(endpoint, data)
    answers = received.split(b"HTTP/1.1 200 OK")[1:]
    counts = [json.loads(answer.split(b"\r\n\r\n")[1])["usage"]["completion_tokens"] for answer in answers]
    assert counts == list(range(1, 31))


def test_chunked_request_with_expect_continue(endpoint: Service | Endpoint) -> None:
    body = json.dumps(hello(max_tokens=2)).encode()
    with socket.create_connection(address(endpoint), timeout=WAIT) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        for at in range(0, len(body), 7):
            piece = body[at : at + 7]
            connection.sendall(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\nTrailer: x\r\n\r\n")
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_large_prompt(endpoint: Service | Endpoint) -> None:
    words = "word " * 500_000
    answer = post(endpoint, model="m", messages=[{"role": "user", "content": words}], max_tokens=1)
    assert json.loads(answer[2])["usage"]["prompt_tokens"] == 500_000


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(endpoint: Service | Endpoint) -> None:
    body = json.dumps(hello(stream=True, max_tokens=2)).encode()
    received = exchange(
        endpoint, b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    head, _, stream = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert len(events(stream)) == 3


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.sock"
    with Service(Options(**QUICK, unix=str(path))) as endpoint:
        assert endpoint.url == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(WAIT)
            connection.connect(str(path))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert not path.exists()


def test_the_truth_agrees_with_what_was_received(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    received = {}
    with Service(Options(ttft="uniform:5ms,20ms", itl="exponential:2ms", truth=str(path))) as endpoint:
        connection = connect(endpoint)
        for index in range(20):
            before = time.monotonic_ns()
            headers = {"x-request-id": f"a-run-{index}"}
            body = post(connection, **hello(stream=True, max_tokens=3 + index), headers=headers)[2]
            received[index] = before, time.monotonic_ns(), len(events(body)) - 1
        connection.close()
    truth = read_truth(path)
    assert truth.requests["index"].tolist() == list(range(20))
    assert truth.requests["input_tokens"].tolist() == [3] * 20
    assert truth.requests["tokens"].tolist() == [3 + index for index in range(20)]
    assert len(set(truth.requests["connection"])) == 1
    assert truth.ends["detail"].tolist() == [0] * 20
    times = timing(truth)
    assert times.tokens.tolist() == [count for _, _, count in received.values()]
    for row in range(20):
        before, after, _ = received[int(times.index[row])]
        assert before < times.first_token[row] < times.last_token[row] < after
        assert before < times.first_token[row] - times.ttft[row]
    assert times.ttft.min() >= 5_000_000
    assert len(gaps(truth)) == sum(2 + index for index in range(20))


def test_the_same_seed_gives_the_same_times(tmp_path: Path) -> None:
    planned = []
    for run in range(2):
        path = tmp_path / f"truth-{run}"
        options = Options(ttft="0", itl="0", output_tokens="uniform:1,1000", seed=5, truth=str(path))
        with Endpoint(options) as endpoint:
            order = range(10) if run == 0 else reversed(range(10))
            for index in order:
                post(endpoint, **hello(headers={"x-request-id": f"run-{index}"}))
        rows = read_truth(path).requests
        planned.append(rows["tokens"][np.argsort(rows["index"])].tolist())
    assert planned[0] == planned[1]
    assert len(set(planned[0])) > 5


def test_steps_are_common_to_all_streams(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with Service(Options(ttft="3ms", itl="1h", step="50ms", truth=str(path))) as endpoint:
        connections = [connect(endpoint) for _ in range(5)]
        for connection in connections:
            connection.request("POST", "/v1/chat/completions", json.dumps(hello(stream=True, max_tokens=4)))
        for connection in connections:
            assert len(events(connection.getresponse().read())) == 5
            connection.close()
    writes = read_truth(path).writes
    writes = writes[writes["tokens"] > 0]
    steps = np.unique(np.round((writes["t"] - writes["t"].min()) / 50e6).astype(int))
    assert len(steps) <= 5  # all streams share the steps, whenever they came
    offset = (writes["t"] - writes["t"].min()) % 50_000_000
    assert np.median(np.minimum(offset, 50_000_000 - offset)) < 10_000_000


def test_slots_make_requests_wait(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with Service(Options(ttft="20ms", itl="20ms", slots=1, truth=str(path))) as endpoint:
        connections = [connect(endpoint) for _ in range(3)]
        for connection in connections:
            connection.request("POST", "/v1/chat/completions", json.dumps(hello(stream=True, max_tokens=3)))
        for connection in connections:
            assert len(events(connection.getresponse().read())) == 4
            connection.close()
    times = timing(read_truth(path))
    order = np.argsort(times.first_token)
    assert (times.first_token[order][1:] > times.last_token[order][:-1]).all()


def test_a_client_that_goes_away_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    with Service(Options(ttft="1ms", itl="1h", truth=str(path))) as endpoint:
        with socket.create_connection(address(endpoint), timeout=WAIT) as connection:
            connection.sendall(raw_post(json.dumps(hello(stream=True, max_tokens=9)).encode()))
            assert connection.recv(65536)
        assert post(endpoint, **hello(max_tokens=1))[0] == 200
    ends = read_truth(path).ends
    assert sorted(ends["detail"].tolist()) == [0, 254]


def test_a_reader_that_pauses_loses_nothing() -> None:
    tokens = 60_000  # 14 MB: more than the socket buffers hold
    with Service(Options(ttft="0", itl="0")) as endpoint:
        with socket.create_connection(address(endpoint), timeout=WAIT) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            extra = "Connection: close\r\n"
            connection.sendall(raw_post(json.dumps(hello(stream=True, max_tokens=tokens)).encode(), extra))
            assert post(endpoint, **hello(max_tokens=1))[0] == 200  # others are served meanwhile
            received = bytearray()
            while piece := connection.recv(1 << 20):
                received += piece
        assert received.count(b'"content":" ') == tokens - 1
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_many_connections(endpoint: Service | Endpoint) -> None:
    request = raw_post(json.dumps(hello(stream=True, max_tokens=3)).encode(), "Connection: close\r\n")
    connections = [socket.create_connection(address(endpoint), timeout=WAIT) for _ in range(400)]
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        received = b""
        while piece := connection.recv(65536):
            received += piece
        connection.close()
        assert received.endswith(b"0\r\n\r\n")
        assert received.count(b"data: ") == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_a_complete_truth_log(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "truth"
    endpoint = Endpoint(Options(ttft="1ms", itl="1h", truth=str(path)))
    try:
        with socket.create_connection(address(endpoint), timeout=WAIT) as connection:
            connection.sendall(raw_post(json.dumps(hello(stream=True, max_tokens=2)).encode()))
            assert connection.recv(65536)
            os.kill(endpoint.pid, number)
            while connection.recv(65536):
                pass
        assert endpoint.stop() == 0
    finally:
        endpoint.stop()
    truth = read_truth(path)
    assert truth.requests["tokens"].tolist() == [2]
    assert truth.ends["detail"].tolist() == [255]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_sending_threads_share_the_connections(tmp_path: Path) -> None:
    path = tmp_path / "truth"
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    with Service(Options(**QUICK, cores=cores, truth=str(path))) as service:
        connections = [connect(service) for _ in range(6)]
        for index, connection in enumerate(connections):
            headers = {"x-request-id": f"run-{index}"}
            for _ in range(3):
                _, _, body = post(connection, **hello(stream=True, max_tokens=4, headers=headers))
                assert len(events(body)) == 5
        for connection in connections:
            connection.close()
    truth = read_truth(path)
    assert len(truth.requests) == 18
    assert len(set(truth.requests["serial"])) == 18
    assert sorted(set(truth.requests["connection"] >> 28)) == [0, 1]
    assert timing(truth).tokens.tolist() == [4] * 18
    assert (truth.ends["detail"] == 0).all()


def test_a_service_frees_its_port_and_descriptors() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        service = Service(Options(**QUICK))
        assert post(service, **hello(max_tokens=1))[0] == 200
        service.stop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_truth_log_that_cannot_grow_ends_the_endpoint_loudly(tmp_path: Path) -> None:
    program = (
        "import resource, sys, select\n"
        "from llmgen.simulator import Options, Service\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "service = Service(Options(ttft='0', itl='0', truth=sys.argv[1]))\n"
        "print(service.url, flush=True)\n"
        "select.select([service.ended], [], [], 20)\n"
        "service.stop()\n"
    )
    path = tmp_path / "truth"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        host = process.stdout.readline().strip().removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=WAIT)
        with pytest.raises((http.client.HTTPException, OSError)):
            post_for_ever(connection)
        connection.close()
        _, told = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    assert "LlmgenError: the endpoint stopped" in told
    assert "truth log broke off: File too large" in told
    assert len(read_truth(path).requests) > 0


def post_for_ever(connection: http.client.HTTPConnection) -> None:
    while True:
        post(connection, **hello(stream=True, max_tokens=1000))


def test_it_ends_with_its_parent() -> None:
    program = (
        "from llmgen.simulator import Endpoint, Options; import os\n"
        "endpoint = Endpoint(Options()); print(endpoint.pid, endpoint.url, flush=True); os._exit(1)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    host, port = told.stdout.split()[1].removeprefix("http://").split(":")
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), timeout=WAIT).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it was in the accept queue when the listener was closed
    pytest.fail("the endpoint outlived its parent")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(ttft="20"), ["ttft", "20ms"]),
        (Options(fault=("explode:1",)), ["fault", "explode"]),
        (Options(host="192.0.2.1"), ["192.0.2.1", "listen"]),
        (Options(truth="/nonexistent/truth"), ["truth", "/nonexistent/truth"]),
        (Options(cores="7777"), ["cores", "7777"]),
        (Options(models=('a"b',)), ["models"]),
        (Options(port=70000), ["port", "70000"]),
    ],
)
def test_a_start_that_cannot_work_says_why(options: Options, words: list[str]) -> None:
    with pytest.raises((ConfigError, TargetError)) as raised:
        Service(options)
    for word in words:
        assert word in str(raised.value)


def test_a_child_that_cannot_start_says_why() -> None:
    with pytest.raises(TargetError, match="ttft: '20' is not a duration"):
        Endpoint(Options(ttft="20"))
