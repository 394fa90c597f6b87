"""A real engine: llama.cpp behind llama-cpp-python's server, with a tiny model of random weights.

What it sends passes through a relay that keeps the bytes, so that the records can be held against what was really said.
With LLMGEN_RENEW_FIXTURES=1 the recorded streams become tests/fixtures/llamacpp_*.sse.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h11
import numpy as np
import pytest

import foreign_servers as foreign
from llmgen.columns import TOKEN_KINDS, Finish, Kind, OutputSource
from llmgen.run import Result
from odd_servers import WAIT, OddServer, Peer
from running import Offer, statuses

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
TOKENS = 12
REQUESTS = 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[foreign.ForeignServer]:
    """The server, its model loaded and listening."""
    python = ROOT / os.environ.get("LLMGEN_LLAMACPP_VENV", ".venv-llamacpp") / "bin" / "python"
    if not python.exists():
        pytest.skip("llama.cpp is not installed (scripts/install-llamacpp builds it)")
    folder = tmp_path_factory.mktemp("llamacpp")
    model = folder / "tiny.gguf"
    subprocess.run([python, ROOT / "tests" / "tiny_llama.py", model], check=True, timeout=120)
    port = foreign.free_port()
    # By default a new request interrupts the one before; one thread leaves a core to the client.
    command = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_threads", "1", "--n_threads_batch", "1"]
    command += ["--n_ctx", "2048", "--interrupt_requests", "false", "--verbose", "false"]
    with foreign.ForeignServer(command, port, folder / "server.log") as server:
        yield server


class Answer(NamedTuple):
    """One response as its server sent it."""

    status: int
    content_type: str
    body: bytes
    framed: bytes  # with its head and chunks

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event but [DONE], by a reading of lines that is not ours."""
        lines = self.body.decode().replace("\r\n", "\n").split("\n")
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(event) for event in data[:-1]]


class Relay:
    """A TCP relay before the engine that keeps what passes: answers by the index of their request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.passed: list[tuple[bytearray, bytearray]] = []

    def __call__(self, peer: Peer) -> None:
        there, back = bytearray(), bytearray()
        self.passed.append((there, back))
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT) as engine:
            ways = {peer.socket: (engine, there), engine: (peer.socket, back)}
            with selectors.DefaultSelector() as selector:
                for side in ways:
                    selector.register(side, selectors.EVENT_READ)
                while ready := selector.select(WAIT):
                    for key, _ in ready:
                        other, kept = ways[key.fileobj]  # type: ignore[index]
                        data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        if not data:
                            return
                        kept += data
                        other.sendall(data)

    def bodies(self) -> dict[int, Any]:
        """The bodies of the run's requests by their index."""
        found = {}
        for there, _ in self.passed:
            for head, body in messages(bytes(there), h11.SERVER):
                name = dict(head.headers).get(b"x-request-id")
                if name and body:
                    found[int(name.rpartition(b"-")[2])] = json.loads(body)
        return found

    def answers(self) -> dict[int, Answer]:
        """Of the run's requests; the index is the last group of x-request-id."""
        found = {}
        for there, back in self.passed:
            for request, answer in zip(requests_in(bytes(there)), answers_in(bytes(back)), strict=False):
                if request is not None:
                    found[request] = answer
        return found


def messages(data: bytes, role: Any) -> Iterator[tuple[Any, bytes]]:
    """Heads and bodies that h11 finds in one direction of a connection."""
    connection = h11.Connection(role, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    connection.receive_data(b"")
    head, body = None, b""
    while True:
        if role is h11.CLIENT and connection.our_state is h11.IDLE:
            connection.send(h11.Request(method="POST", target="/", headers=[("host", "h"), ("content-length", "0")]))
            connection.send(h11.EndOfMessage())
        event = connection.next_event()
        if isinstance(event, (h11.Request, h11.Response)):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            yield head, body
        elif isinstance(event, h11.InformationalResponse):
            continue
        elif event is h11.PAUSED:
            if role is h11.SERVER:
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        else:
            return


def requests_in(data: bytes) -> Iterator[int | None]:
    for head, _ in messages(data, h11.SERVER):
        name = dict(head.headers).get(b"x-request-id")
        yield int(name.rpartition(b"-")[2]) if name else None


def answers_in(data: bytes) -> Iterator[Answer]:
    for head, body in messages(data, h11.CLIENT):
        kind = dict(head.headers).get(b"content-type", b"").decode()
        yield Answer(head.status_code, kind, body, data)


def offer_to(engine: foreign.ForeignServer, offer: Offer, **flags: Any) -> tuple[Result, dict[int, Answer]]:
    relay = Relay(engine.port)
    # the engine answers one request after the other: the last of a burst waits for all before it
    patient = {"client.timeouts.first_token": 60.0, "client.timeouts.total": 60.0, "load.drain": 60.0}
    wanted = {"load.rate": 10.0, "load.requests": REQUESTS, "workload.output": TOKENS, **patient}
    with OddServer(relay) as server:
        result = offer(server.url, **{**wanted, **flags})
    return result, relay.answers()


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_streams(engine: foreign.ForeignServer, offer: Offer, api: str) -> None:
    result, said = offer_to(engine, offer, **{"target.api": api})
    rows = result.requests
    assert statuses(rows) == {"ok": REQUESTS}
    assert result._run.info["model"] == "tiny"  # found by /v1/models
    assert sorted(said) == list(range(REQUESTS))
    assert all(answer.content_type.startswith("text/event-stream") for answer in said.values())
    assert (rows["first_token"] > rows["send"]).all()
    assert (rows["flags"] & 256 != 0).all()  # [DONE]
    assert result.events is not None
    for row in rows:
        events = said[int(row["index"])].events
        check_events(row, result.events[result.events["request"] == row["index"]], events, api)
    if os.environ.get("LLMGEN_RENEW_FIXTURES"):
        shortest = min((a.body for a in said.values()), key=len)
        (ROOT / "tests" / "fixtures" / f"llamacpp_{api}.sse").write_bytes(shortest)


def check_events(row: np.void, recorded: np.ndarray, said: list[dict[str, Any]], api: str) -> None:
    """One request's record against what the server said, decoded by the json module."""
    assert row["events"] == len(said) == len(recorded)
    choices = [event["choices"][0] for event in said]
    text = [choice["text"] if api == "completions" else choice["delta"].get("content") for choice in choices]
    assert [bool(kind & TOKEN_KINDS) for kind in recorded["kind"]] == [bool(piece) for piece in text]
    tokens = sum(bool(piece) for piece in text)
    assert row["token_events"] == row["output_tokens"] == tokens
    assert 0 < tokens <= TOKENS
    assert row["output_source"] == OutputSource.events  # it sends no usage
    assert not (recorded["kind"] & Kind.usage).any()
    if api == "chat":
        assert choices[0]["delta"] == {"role": "assistant"}
        assert recorded["kind"][0] == Kind.role
        assert row["first_event"] <= row["first_token"]
        assert recorded["t"][0] == row["first_event"]
    assert row["first_token"] == recorded["t"][np.flatnonzero(recorded["kind"] & TOKEN_KINDS)[0]]
    assert row["last_token"] == recorded["t"][np.flatnonzero(recorded["kind"] & TOKEN_KINDS)[-1]]
    assert Finish(row["finish_reason"]).name == choices[-1]["finish_reason"]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_whole_answers(engine: foreign.ForeignServer, offer: Offer, api: str) -> None:
    result, said = offer_to(engine, offer, **{"target.api": api, "workload.stream": False})
    rows = result.requests
    assert statuses(rows) == {"ok": REQUESTS}
    for row in rows:
        whole = json.loads(said[int(row["index"])].body)
        assert row["output_tokens"] == whole["usage"]["completion_tokens"]
        assert row["input_tokens"] == whole["usage"]["prompt_tokens"]
        assert row["output_source"] == OutputSource.usage
        assert Finish(row["finish_reason"]).name == whole["choices"][0]["finish_reason"]
        assert row["bytes_in"] == len(said[int(row["index"])].body)
    assert (rows["first_token"] < 0).all()  # there is none to see


def test_sessions_quote_the_engine(engine: foreign.ForeignServer, offer: Offer) -> None:
    """Each turn's prompt holds what the engine really said before, read from the wire by h11 and json."""
    relay = Relay(engine.port)
    wanted = {"load.rate": 5.0, "load.requests": 12, "workload.output": TOKENS, "load.drain": 60.0}
    wanted |= {"client.timeouts.first_token": 60.0, "client.timeouts.total": 60.0}
    with OddServer(relay) as server:
        result = offer(server.url, **wanted, **{"workload.sessions": {"turns": 3, "think": "20ms"}})
    rows, said, asked = result.requests, relay.answers(), relay.bodies()
    assert statuses(rows) == {"ok": 12}
    assert set(np.unique(rows["turn"])) == {0, 1, 2}
    for row in rows[rows["turn"] > 0]:
        before = said[int(row["index"]) - 1].events
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in before)
        assert text
        assert asked[int(row["index"])]["messages"][-2] == {"role": "assistant", "content": text}


def test_all_at_once(engine: foreign.ForeignServer, offer: Offer) -> None:
    """An engine that works on one at a time: whoever waits, waits in the server, on a connection of its own."""
    result, said = offer_to(engine, offer, **{"load.rate": float("inf"), "load.requests": 8})
    rows = result.requests
    assert statuses(rows) == {"ok": 8}
    assert len(np.unique(rows["connection"])) == 8
    assert len(np.unique(rows["first_token"])) == 8
    assert rows["send"].max() < rows["end"].max()
    assert all(row["events"] == len(said[int(row["index"])].events) for row in rows)
