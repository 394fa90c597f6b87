"""One look at a target before load is sent: does it answer, in which protocol, does it know us and the model."""

from __future__ import annotations

import contextlib
import difflib
import json
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmgen import sources
from llmgen.config import RunConfig
from llmgen.credentials import hide, is_secret_name
from llmgen.errors import ConfigError, LoadingError, TargetError
from llmgen.loading import loading
from llmgen.report.escaping import plain
from llmgen.target import Address, Target, secrets
from llmgen.wire import http1, http2

ANSWER_WAIT_S: Final = 5.0  # a server under load may be slow to list its models; without an answer we go on
MOST_BYTES: Final = 1 << 20
OURS: Final = ("accept", "user-agent")  # headers of the question that the user's do not replace
# What a peer's SETTINGS say (RFC 9113, 6.5.2); what it leaves out has the RFC's default.
SETTINGS: Final = {
    3: "max_concurrent_streams",
    4: "initial_window_size",
    5: "max_frame_size",
    6: "max_header_list_size",
}
HEALTH: Final = "/health"
# These list their models while they load them, and say so at HEALTH. Others are not asked: a gateway may put real
# requests to every model behind it (LiteLLM).
TELL_AT_HEALTH: Final = ("llama.cpp", "llmgen-serve")
NO_CERTIFICATE: Final = "the server requires a client certificate; name yours with --cert FILE and --key FILE"


@dataclass
class Answer:
    """What the target said to GET …/models, as far as it said anything."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    settings: dict[str, int] = field(default_factory=dict)  # http2: those of SETTINGS that have a name here


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

    TargetError: cannot be reached, speaks something else, or (LoadingError) is still loading its model.
    ConfigError: refuses the credentials.
    """
    http = config.target.http
    started = time.monotonic()
    stream = connected(target, config.client.timeouts.connect, context)
    with stream:
        took = time.monotonic() - started
        chosen = stream.selected_alpn_protocol() if isinstance(stream, ssl.SSLSocket) else None
        protocol = 2 if http == "2" or chosen == "h2" else 1
        if context is not None and http == "2" and chosen != "h2":
            raise TargetError(f"{target.url}: the server does not offer HTTP/2 (ALPN h2); use --http 1.1 or auto")
        seen = Look(protocol, took)
        if isinstance(stream, ssl.SSLSocket):
            seen.facts.update(tls=stream.version(), alpn=chosen)
        where, health = models_path(path), Answer()
        ask = _ask_http2 if protocol == 2 else _ask_http1
        if _may_still_refuse(stream, config):
            bare = {name: value for name, value in headers.items() if not is_secret_name(name)}
            answer = ask(stream, target, where or "/", bare)
            if where is not None and len(bare) < len(headers):
                with connected(target, config.client.timeouts.connect, context) as stream:
                    answer = ask(stream, target, where, headers)
        elif where is not None:
            answer = ask(stream, target, where, headers)
            if protocol == 1 and answer.headers.get("server", "").startswith(TELL_AT_HEALTH):
                with contextlib.suppress(TargetError):
                    health = ask(stream, target, HEALTH, headers)
    if where is not None:
        _read_answer(seen, answer, target, secrets(headers))
        refuse_loading(target, health)
    return seen


def ask_on(stream: socket.socket, target: Target, config: RunConfig, path: str, headers: Mapping[str, str]) -> Answer:
    """GET `path` on a fresh connection, in the protocol that it has. TargetError."""
    chosen = stream.selected_alpn_protocol() if isinstance(stream, ssl.SSLSocket) else None
    ask = _ask_http2 if config.target.http == "2" or chosen == "h2" else _ask_http1
    return ask(stream, target, path, headers)


def refuse_loading(target: Target, answer: Answer) -> None:
    """LoadingError if the answer says that the model is still being loaded."""
    said = loading(answer.status, answer.body)
    if said is not None:
        raise LoadingError(
            f"{target.url}: is still loading its model ({answer.status}: {plain(said, 100)}); start again once it is "
            "ready, or let `llmgen test coldstart` wait for it and measure its first requests"
        )


def _may_still_refuse(stream: socket.socket, config: RunConfig) -> bool:
    """Whether the peer can still want a client certificate: TLS 1.3 tells only after our handshake (RFC 8446 4.4.2.4),
    so that the first question must have no secret in it."""
    return isinstance(stream, ssl.SSLSocket) and stream.version() == "TLSv1.3" and config.target.cert is None


def models_path(path: str) -> str | None:
    """Where a server lists its models, from the path of its endpoint as its API has it; None if that cannot be told."""
    bare = path.partition("?")[0]
    if bare.endswith("/api/chat"):  # Ollama
        return bare.removesuffix("chat") + "tags"
    for endpoint in ("/chat/completions", "/completions", "/responses", "/messages", "/embeddings"):
        if bare.endswith(endpoint):
            return bare[: -len(endpoint)] + "/models"
    return None


def connected(target: Target, timeout_s: float, context: ssl.SSLContext | None) -> socket.socket:
    """A connected (and secured) socket to the first address that takes us."""
    failure: OSError | None = None
    until = time.monotonic() + timeout_s
    for address in target.addresses:
        try:
            raw = open_stream(address, target.sources, max(0.05, until - time.monotonic()))
        except OSError as error:
            failure = error
            continue
        if context is None:
            return raw
        try:
            return context.wrap_socket(raw, server_hostname=target.host)
        except (OSError, ssl.SSLError, ValueError) as error:
            raw.close()
            raise TargetError(tls_text(target, error)) from None
    raise TargetError(connect_text(target, failure))


def open_stream(address: Address, local: Sequence[Address], timeout_s: float) -> socket.socket:
    """A connection to `address`, from the first of the local addresses that has its family. OSError."""
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}[address[0]]
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.settimeout(timeout_s)
        for source in sources.of_family(local, address[0])[:1]:
            sources.bind(raw, source)
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


def connect_text(target: Target, error: OSError | None) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"{target.url}: connection refused; is the server up, and is this its port?"
    if isinstance(error, FileNotFoundError):
        return f"{target.url}: no such socket; is the server up?"
    if isinstance(error, TimeoutError):
        return f"{target.url}: no connection within the connect timeout; check the address and firewalls"
    reason = "no address" if error is None else error.strerror or str(error)
    return f"{target.url}: cannot be reached: {reason}; check the address"


def tls_text(target: Target, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{target.url}: the certificate is not trusted: {error.verify_message}; "
            "name its authority with --ca FILE, or --insecure to look away"
        )
    if isinstance(error, TimeoutError):
        return f"{target.url}: the TLS handshake did not end within the connect timeout; is this port https?"
    reason = str(getattr(error, "reason", None) or error)
    kind = reason.upper().replace(" ", "_")
    if "CERTIFICATE_REQUIRED" in kind:
        return f"{target.url}: {NO_CERTIFICATE}"
    if "HANDSHAKE_FAILURE" in kind:
        return f"{target.url}: the server refused the TLS handshake; perhaps {NO_CERTIFICATE}"
    return f"{target.url}: TLS failed: {plain(reason, 200)}; is this port https, with TLS 1.2 or later?"


def _ask_http1(stream: socket.socket, target: Target, path: str, headers: Mapping[str, str]) -> Answer:
    head = [f"GET {path} HTTP/1.1", f"host: {target.authority}", "accept: application/json", "user-agent: llmgen"]
    head += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in OURS]
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
        for data in _exchange(stream, target, ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")):
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
    fields += [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers.items() if n.lower() not in OURS]
    answer = Answer()

    def take(events: Sequence[tuple[Any, ...]]) -> bool:
        done = False
        for event in events:
            if event[0] == "headers" and answer.status is None:
                answer.headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in event[2]}
                answer.status = int(answer.headers.get(":status", 0))
                done = done or event[3]
            elif event[0] == "settings":
                answer.settings |= {SETTINGS[number]: value for number, value in event[1].items() if number in SETTINGS}
            elif event[0] == "data":
                answer.body += event[2]
                done = done or event[3]
            elif event[0] in ("reset", "trailers", "goaway"):
                done = True
        return done or len(answer.body) > MOST_BYTES

    asked = False
    try:
        for data in _exchange(stream, target, client.open()):
            if not data or take(client.feed(data)):
                break
            if not asked and client.capacity:
                # not before the peer's SETTINGS: what speaks something else shall not see our headers
                client.request(fields)
                asked = True
            with contextlib.suppress(OSError):  # the peer has gone: what it said before is still to be read
                stream.sendall(client.take())
    except http2.Error as error:
        raise TargetError(
            f"{target.url}: does not speak HTTP/2: {plain(str(error))}; use --http 1.1 or check the port"
        ) from None
    if not client.ready:
        raise TargetError(f"{target.url}: does not speak HTTP/2: it sent no SETTINGS; use --http 1.1 or check the port")
    return answer


def _exchange(stream: socket.socket, target: Target, request: bytes) -> Any:
    """Sends, then yields what comes until the peer closes (b'' last) or the wait is over."""
    until = time.monotonic() + ANSWER_WAIT_S
    heard = False
    try:
        with contextlib.suppress(ssl.SSLEOFError, ConnectionError):  # gone already: why is still to be read
            stream.sendall(request)
        while (left := until - time.monotonic()) > 0:
            stream.settimeout(left)
            data = stream.recv(65536)
            if not data:
                break
            heard = True
            yield data
        else:
            return
    except TimeoutError:
        return
    except ssl.SSLError as error:
        if not isinstance(error, ssl.SSLEOFError):
            raise TargetError(tls_text(target, error)) from None
    except OSError:
        if not isinstance(stream, ssl.SSLSocket):
            return
    if not heard and isinstance(stream, ssl.SSLSocket):
        # the reset of a server that refuses us may have overtaken its alert
        raise TargetError(f"{target.url}: closed the connection after the TLS handshake; perhaps {NO_CERTIFICATE}")
    yield b""


def _read_answer(seen: Look, answer: Answer, target: Target, hidden: Sequence[str]) -> None:
    if answer.settings:
        seen.facts["http2_settings"] = answer.settings
    if answer.status is None:
        seen.notes.append(f"{target.url}: did not list its models within {ANSWER_WAIT_S:g} s; going on")
        return
    server = answer.headers.get("server")
    if server:
        seen.facts["server"] = plain(hide(server, hidden), 100)
    if answer.status in (401, 403):
        said = plain(hide(answer.body[:200].decode("utf-8", "replace"), hidden))
        raise ConfigError(
            f"{target.url}: refuses the credentials ({answer.status}): {said}; "
            "set OPENAI_API_KEY (ANTHROPIC_API_KEY), --api-key-env NAME or --header 'api-key: env:NAME'"
        )
    refuse_loading(target, answer)
    if answer.status != 200:
        return
    try:
        document = json.loads(answer.body)
        listed = document["data"] if "data" in document else document["models"]  # Ollama says models, and name
        entries = [entry for entry in listed if isinstance(entry, dict)]
        seen.models = [str(entry.get("id", entry.get("name"))) for entry in entries if "id" in entry or "name" in entry]
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
