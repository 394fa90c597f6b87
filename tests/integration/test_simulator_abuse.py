"""Hostile and unlucky clients: whatever they do, the endpoint serves on, and each request has exactly one end."""

from __future__ import annotations

import json
import random
import select
import socket
from collections import Counter
from pathlib import Path

import h2.config
import h2.connection
import pytest

from llmgen.simulator import Options, Service
from llmgen.simulator.truth import read_truth

WAIT = 20.0
ROUNDS = 120

FAULTS = tuple(
    f"{name}:0.04"
    for name in (
        "429", "drop", "hang", "garbage", "html", "reset", "stall", "slow", "cut", "eof", "malformed", "error-event",
        "crlf", "split", "unframed", "close", "empty", "goaway", "refused-stream", "rst-stream",
    )
)  # fmt: skip


def body(rng: random.Random) -> bytes:
    members = {
        "messages": [{"role": "user", "content": "word " * rng.choice([1, 10, 20_000])}],
        "stream": rng.random() < 0.8,
        "max_tokens": rng.choice([1, 2, 20, 2000]),
    }
    return json.dumps(members).encode()


def http1(rng: random.Random) -> bytes:
    data = b""
    for _ in range(rng.randint(1, 4)):
        content = body(rng)
        if rng.random() < 0.3:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            data += head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        else:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
            data += head % len(content) + content
    return data


def http2(rng: random.Random) -> bytes:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.remote_flow_control_window = lambda stream: 1 << 30  # type: ignore[method-assign]
    streams = []
    for _ in range(rng.randint(1, 20)):
        stream = client.get_next_available_stream_id()
        path = rng.choice(["/v1/chat/completions", "/v1/chat/completions", "/v1/models"])
        client.send_headers(stream, [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "a")])
        content = body(rng)[:16000]
        if client.local_flow_control_window(stream) >= len(content):
            client.send_data(stream, content, end_stream=rng.random() < 0.9)
        streams.append(stream)
        if rng.random() < 0.2:
            client.reset_stream(rng.choice(streams))
            break
        if rng.random() < 0.1:
            client.ping(b"12345678")
    return client.data_to_send()


def damaged(rng: random.Random, data: bytes) -> bytes:
    result = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        result[rng.randrange(len(result))] = rng.randrange(256)
    return bytes(result)


def visit(rng: random.Random, address: tuple[str, int]) -> None:
    """One connection: sends something in pieces, reads a little or nothing, leaves politely or not."""
    data = rng.choice([http1, http2])(rng)
    if rng.random() < 0.3:
        data = damaged(rng, data)
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data))]
    connection = socket.create_connection(address, timeout=WAIT)
    try:
        while data:
            size = rng.choice([1, 50, 5000, len(data)])
            connection.sendall(data[:size])
            data = data[size:]
            if rng.random() < 0.2:
                select.select([connection], [], [], 0.005)
        for _ in range(rng.randint(0, 3)):
            if select.select([connection], [], [], 0.02)[0] and not connection.recv(rng.choice([10, 65536])):
                break
        if rng.random() < 0.3:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leave with RST
        elif rng.random() < 0.3:
            connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the endpoint's faults, and its refusals
    finally:
        connection.close()


@pytest.mark.parametrize(
    "options",
    [
        Options(ttft="uniform:0ms,5ms", itl="uniform:0ms,2ms", fault=FAULTS),
        Options(ttft="0", itl="0", step="3ms", fault=(*FAULTS, "close-idle:5ms", "window:10")),
        Options(ttft="1ms", itl="1ms", slots=3, fault=("stall:0.05", "slow-settings:2ms", "lowered-stream-limit:1")),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_abuse(tmp_path: Path, options: Options, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "truth"
    changed = {name: getattr(options, name) for name in options.__struct_fields__} | {"truth": str(path)}
    with Service(Options(**changed)) as service:
        host, port = service.url.removeprefix("http://").split(":")
        for _ in range(ROUNDS):
            visit(rng, (host, int(port)))
        with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    truth = read_truth(path)
    assert len(truth.requests) > ROUNDS // 3
    begun, over = Counter(truth.requests["serial"].tolist()), Counter(truth.ends["serial"].tolist())
    assert begun == over
    assert set(begun.values()) == {1}
    assert (truth.writes["t"] > 0).all()
    written = Counter[int]()
    for serial, tokens in zip(truth.writes["serial"].tolist(), truth.writes["tokens"].tolist(), strict=True):
        written[serial] += tokens
    for row in truth.ends:
        assert written[int(row["serial"])] <= row["tokens"]
