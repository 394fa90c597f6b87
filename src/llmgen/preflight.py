"""One look at a target before load is sent: does it answer, in which protocol, does it know us and the model."""

from __future__ import annotations

import difflib
import json
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmgen.config import RunConfig
from llmgen.errors import ConfigError, TargetError
from llmgen.report.escaping import plain
from llmgen.target import Address, Target
from llmgen.wire import http1, http2

ANSWER_WAIT_S: Final = 5.0  # a server under load may be slow to list its models; without an answer we go on
MOST_BYTES: Final = 1 << 20


@dataclass
class Answer:
    """What the target said to GET …/models, as far as it said anything."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Look:
    """What is known of a target before the run."""

    protocol: int  # 1 | 2
    connect_s: float
    models: list[str] = field(default_factory=list)  # empty: it does not tell
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def look(
    target: Target, config: RunConfig, path: str, headers: Mapping[str, str], context: ssl.SSLContext | None
) -> Look:
    """Connects, and asks for the models if the endpoint's `path` shows where they are listed.

    TargetError: cannot be reached, or speaks something else. ConfigError: refuses the credentials.
    """
    http = config.target.http
    started = time.monotonic()
    stream = _connect(target, config.client.timeouts.connect, context)
    with stream:
        took = time.monotonic() - started
        chosen = stream.selected_alpn_protocol() if isinstance(stream, ssl.SSLSocket) else None
        protocol = 2 if http == "2" or chosen == "h2" else 1
        if context is not None and http == "2" and chosen != "h2":
            raise TargetError(f"{target.url}: the server does not offer HTTP/2 (ALPN h2); use --http 1.1 or auto")
        seen = Look(protocol, took)
        if isinstance(stream, ssl.SSLSocket):
            seen.facts.update(tls=stream.version(), alpn=chosen)
        where = models_path(path)
        if where is None:
            return seen
        ask = _ask_http2 if protocol == 2 else _ask_http1
        answer = ask(stream, target, where, headers)
    _read_answer(seen, answer, target, config)
    return seen


def models_path(path: str) -> str | None:
    """Where an OpenAI-like server lists its models, from the path of its endpoint; None if that cannot be told."""
    bare = path.partition("?")[0]
    for endpoint in ("/chat/completions", "/completions", "/responses", "/messages", "/embeddings"):
        if bare.endswith(endpoint):
            return bare[: -len(endpoint)] + "/models"
    return None


def _connect(target: Target, timeout_s: float, context: ssl.SSLContext | None) -> socket.socket:
    """A connected (and secured) socket to the first address that takes us."""
    failure: OSError | None = None
    until = time.monotonic() + timeout_s
    for address in target.addresses:
        try:
            raw = _open(address, max(0.05, until - time.monotonic()))
        except OSError as error:
            failure = error
            continue
        if context is None:
            return raw
        try:
            return context.wrap_socket(raw, server_hostname=target.host)
        except (OSError, ssl.SSLError, ValueError) as error:
            raw.close()
            raise TargetError(_tls_text(target, error)) from None
    raise TargetError(_connect_text(target, failure))


def _open(address: Address, timeout_s: float) -> socket.socket:
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}[address[0]]
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.settimeout(timeout_s)
        if address[0] == "unix":
            raw.connect(address[1])
        elif address[0] == "inet":
            raw.connect((address[1], address[2]))
        else:
            raw.connect((address[1], address[2], 0, address[3]))
    except OSError:
        raw.close()
        raise
    return raw


def _connect_text(target: Target, error: OSError | None) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"{target.url}: connection refused; is the server up, and is this its port?"
    if isinstance(error, FileNotFoundError):
        return f"{target.url}: no such socket; is the server up?"
    if isinstance(error, TimeoutError):
        return f"{target.url}: no connection within the connect timeout; check the address and firewalls"
    reason = "no address" if error is None else error.strerror or str(error)
    return f"{target.url}: cannot be reached: {reason}; check the address"


def _tls_text(target: Target, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{target.url}: the certificate is not trusted: {error.verify_message}; "
            "name its authority with --ca FILE, or --insecure to look away"
        )
    if isinstance(error, TimeoutError):
        return f"{target.url}: the TLS handshake did not end within the connect timeout; is this port https?"
    reason = getattr(error, "reason", None) or str(error)
    return f"{target.url}: TLS failed: {plain(str(reason), 200)}; is this port https, with TLS 1.2 or later?"


def _ask_http1(stream: socket.socket, target: Target, path: str, headers: Mapping[str, str]) -> Answer:
    head = [f"GET {path} HTTP/1.1", f"host: {target.authority}", "accept: application/json", "user-agent: llmgen"]
    head += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in ("accept", "user-agent")]
    answer = Answer()
    parser = http1.Parser(method=b"GET")
    first = b""

    def take(events: Sequence[tuple[Any, ...]]) -> bool:
        for event in events:
            if event[0] == "head":
                answer.status = event[1]
                answer.headers = {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in event[2]}
            elif event[0] == "data":
                answer.body += event[1]
            elif event[0] == "end":
                return True
        return len(answer.body) > MOST_BYTES

    try:
        for data in _exchange(stream, ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")):
            first = first or data
            if take(parser.feed(data) if data else parser.eof()):
                break
    except http1.Error as error:
        what = plain(first[:40].decode("latin-1")) if first else "nothing"
        if answer.status is None:
            raise TargetError(
                f"{target.url}: does not speak HTTP/1.1 ({error}; it said {what!r}); "
                "check the port, or try https:// or --http 2"
            ) from None
    return answer


def _ask_http2(stream: socket.socket, target: Target, path: str, headers: Mapping[str, str]) -> Answer:
    client = http2.Client()
    scheme = b"https" if target.secure else b"http"
    fields = [
        (b":method", b"GET"),
        (b":scheme", scheme),
        (b":authority", target.authority.encode()),
        (b":path", path.encode("latin-1")),
        (b"accept", b"application/json"),
        (b"user-agent", b"llmgen"),
    ]
    fields += [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers.items() if n.lower() != "accept"]
    hello = client.open()
    client.request(fields, b"")
    answer = Answer()

    def take(events: Sequence[tuple[Any, ...]]) -> bool:
        done = False
        for event in events:
            if event[0] == "headers" and answer.status is None:
                answer.headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in event[2]}
                answer.status = int(answer.headers.get(":status", 0))
                done = done or event[3]
            elif event[0] == "data":
                answer.body += event[2]
                done = done or event[3]
            elif event[0] in ("reset", "trailers", "goaway"):
                done = True
        return done or len(answer.body) > MOST_BYTES

    try:
        for data in _exchange(stream, hello + client.take()):
            if not data or take(client.feed(data)):
                break
            stream.sendall(client.take())
    except http2.Error as error:
        raise TargetError(
            f"{target.url}: does not speak HTTP/2: {plain(str(error))}; use --http 1.1 or check the port"
        ) from None
    return answer


def _exchange(stream: socket.socket, request: bytes) -> Any:
    """Sends, then yields what comes until the peer closes (b'' last) or the wait is over."""
    until = time.monotonic() + ANSWER_WAIT_S
    try:
        stream.sendall(request)
        while (left := until - time.monotonic()) > 0:
            stream.settimeout(left)
            data = stream.recv(65536)
            yield data
            if not data:
                return
    except OSError:
        return


def _read_answer(seen: Look, answer: Answer, target: Target, config: RunConfig) -> None:
    if answer.status is None:
        seen.notes.append(f"{target.url}: did not list its models within {ANSWER_WAIT_S:g} s; going on")
        return
    server = answer.headers.get("server")
    if server:
        seen.facts["server"] = plain(server, 100)
    if answer.status in (401, 403):
        said = plain(answer.body[:200].decode("utf-8", "replace"))
        raise ConfigError(
            f"{target.url}: refuses the credentials ({answer.status}): {said}; "
            "set OPENAI_API_KEY, --api-key-env NAME or --header 'api-key: env:NAME'"
        )
    if answer.status != 200:
        return
    try:
        listed = json.loads(answer.body)["data"]
        seen.models = [str(entry["id"]) for entry in listed if isinstance(entry, dict) and "id" in entry]
        limits = [entry.get("max_model_len") for entry in listed if isinstance(entry, dict)]
        if limits and isinstance(limits[0], int):
            seen.facts["max_model_len"] = limits[0]
    except (ValueError, KeyError, TypeError):
        return


def check_models(wanted: Sequence[str], seen: Look, target: Target) -> None:
    """ConfigError if the target lists its models and one of `wanted` is not among them."""
    if not seen.models:
        return
    for model in wanted:
        if model in seen.models or f"{model}:latest" in seen.models:
            continue
        close = difflib.get_close_matches(model, seen.models, 1)
        guess = f"; did you mean {plain(close[0])!r}?" if close else ""
        some = ", ".join(plain(name, 60) for name in seen.models[:8])
        more = f" and {len(seen.models) - 8} more" if len(seen.models) > 8 else ""
        raise ConfigError(f"target.model={model!r}: {target.url} does not serve it{guess}; it lists {some}{more}")
