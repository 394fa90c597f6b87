"""Waiting for a server: not there, silent, loading, unavailable, ready, each as it was seen."""

from __future__ import annotations

import itertools
import socket
import threading

from llmgen import readiness
from llmgen.config import RunConfig, merge
from odd_servers import MODELS, OddServer, Peer, whole

LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'


def config(url: str) -> RunConfig:
    return merge(RunConfig(), {"target.urls": (url,)})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_start_is_told_phase_by_phase():
    port, counter = free_port(), itertools.count()

    def starting(peer: Peer) -> None:
        """First nothing, then as llama.cpp (at /health only), SGLang, a gateway; then well."""
        n = next(counter)
        while (request := peer.request()) is not None:
            if n < 2:
                return
            if request.path != "/health":
                peer.send(whole(b"no healthy upstream", b"503 Service Unavailable") if n in (8, 9) else whole(MODELS))
            elif n < 6:
                peer.send(whole(LOADING, b"503 Service Unavailable"))
            elif n < 8:
                peer.send(whole(b"", b"503 Service Unavailable"))
            else:
                peer.send(whole(b"{}"))

    servers = []
    timer = threading.Timer(0.6, lambda: servers.append(OddServer(starting, port)))
    timer.start()
    heard = []
    try:
        phases, ready = readiness.wait(
            config(f"http://127.0.0.1:{port}"), 15.0, lambda phase: heard.append(phase.state)
        )
    finally:
        timer.join()
        for server in servers:
            server.__exit__(None, None, None)
    assert ready
    states = [phase.state for phase in phases]
    assert states == ["refused", "silent", "loading", "unavailable", "unavailable", "ready"] == heard
    assert phases[2].said == "503 Loading model"
    assert phases[4].said == "503 no healthy upstream"
    assert phases[0].looks >= 2
    assert all(a.until_s <= b.from_s for a, b in itertools.pairwise(phases))
    assert 0.5 < phases[1].from_s < phases[-1].from_s < 15


def test_the_wait_is_bounded():
    phases, ready = readiness.wait(config(f"http://127.0.0.1:{free_port()}"), 0.6)
    assert not ready
    assert [phase.state for phase in phases] == ["refused"]
    assert phases[0].until_s < 5


def test_a_gateway_that_asks_its_models_is_not_asked_for_its_health():
    def gateway(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(whole(MODELS, more=b"x-litellm-version: 1.80\r\n"))

    with OddServer(gateway) as server:
        phases, ready = readiness.wait(config(server.url), 5.0)
        assert [request.path for request in server.requests] == ["/v1/models"]
    assert ready
    assert [phase.state for phase in phases] == ["ready"]
