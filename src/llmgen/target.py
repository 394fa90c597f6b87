"""Targets as the workers need them: addresses, protocol, and the constant part of every request's head."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from llmgen.config import Target as TargetConfig
from llmgen.config import redact_url
from llmgen.credentials import is_secret_name
from llmgen.errors import TargetError
from llmgen.plan import Head
from llmgen.wire import hpack

USER_AGENT: Final = "llmgen"
EVENT_STREAM: Final = "text/event-stream"
Address = tuple[Any, ...]  # ("inet", host, port) | ("inet6", host, port, scope) | ("unix", path)


@dataclass(frozen=True)
class Target:
    """One url, resolved."""

    url: str  # as in the configuration, without secrets
    secure: bool
    host: str  # for Host, :authority, SNI and the certificate
    authority: str  # host[:port] as sent
    addresses: tuple[Address, ...]
    path: str  # own path of the url, "" if it has none
    sources: tuple[Address, ...] = ()  # local addresses to connect from; none: the system's choice


def resolve(config: TargetConfig) -> list[Target]:
    """Every url of the cluster with all addresses of its name. TargetError if a name cannot be resolved."""
    return [_resolve(url, config.connect_to) for url in config.urls]


def _resolve(url: str, connect_to: str | None) -> Target:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        path = unquote(url.partition(":")[2])
        path = path[2:] if path.startswith("///") else path
        return Target(url, False, "localhost", "localhost", (("unix", path),), "")
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == (443 if secure else 80) else f"{shown}:{port}"
    there, there_port = host, port
    if connect_to:
        there, _, text = connect_to.rpartition(":")
        there, there_port = there.strip("[]"), int(text)
    return Target(redact_url(url), secure, host, authority, _addresses(there, there_port, url), parts.path)


def _addresses(host: str, port: int, url: str) -> tuple[Address, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TargetError(
            f"target.urls={redact_url(url)!r}: the name {host!r} cannot be resolved: {reason}; "
            "check the spelling, DNS, or name an address with --connect-to HOST:PORT"
        ) from None
    addresses: list[Address] = []
    for family, _, _, _, address in found:
        if family == socket.AF_INET:
            addresses.append(("inet", *address[:2]))
        elif family == socket.AF_INET6:
            addresses.append(("inet6", address[0], address[1], address[3] if len(address) > 3 else 0))
    return tuple(dict.fromkeys(addresses))


def request_headers(stream: bool, extra: Mapping[str, str], accept: str = EVENT_STREAM) -> list[tuple[str, str]]:
    """Headers of a request besides its first line, host, length and ids; the user's win over ours."""
    headers = {
        "accept": accept if stream else "application/json",
        "content-type": "application/json",
        "user-agent": USER_AGENT,
    }
    headers.update({name.lower(): value for name, value in extra.items()})
    return list(headers.items())


def request_id(run_id: str) -> str:
    """How the x-request-id of every request of a run begins; `run_id` is 12 hexadecimal digits.

    Servers exist that answer 400 to an id that is no UUID (starlette-context, so llama-cpp-python): it has the shape of
    a version 4 one, <run>-<run>-4<attempt>-8000-<index>, attempt and index in decimal, which the core adds.
    """
    return f"{run_id[:8]}-{run_id[8:]}-4"


def http1_head(
    target: Target, path: str, headers: Sequence[tuple[str, str]], id_head: str, method: str = "POST"
) -> bytes:
    """The head of every such request as far as they are alike: up to `id_head`, which begins its x-request-id."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {target.authority}"]
    lines += [f"{name}: {value}" for name, value in headers if name != "x-request-id"]
    return ("\r\n".join(lines) + f"\r\nx-request-id: {id_head}").encode("latin-1")


def http2_head(target: Target, path: str, headers: Sequence[tuple[str, str]], method: str = "POST") -> bytes:
    """The constant part of the header block: valid on any connection, secrets never indexed."""
    fields = [
        (":method", method),
        (":scheme", "https" if target.secure else "http"),
        (":authority", target.authority),
        (":path", path),
        *((name, value) for name, value in headers if name != "x-request-id"),
    ]
    return b"".join(
        hpack.field(name.encode("latin-1"), value.encode("latin-1"), never_indexed=is_secret_name(name))
        for name, value in fields
    )


def heads(
    target: Target,
    number: int,
    protocol: int,
    plan_heads: Sequence[Head],
    extra: Mapping[str, str],
    id_head: str,
    accept: str = EVENT_STREAM,
) -> list[bytes]:
    """The constant head for every head of the plan; `accept`: the media type of a stream."""
    built = []
    for head in plan_heads:
        headers = request_headers(head.stream, extra, accept)
        path = head.paths[number]
        built.append(http1_head(target, path, headers, id_head) if protocol == 1 else http2_head(target, path, headers))
    return built


def secrets(headers: Mapping[str, str]) -> list[str]:
    """Values that must never appear in records or reports, with the forms in which a server may echo them."""
    found: list[str] = []
    for name, value in headers.items():
        if not is_secret_name(name) or len(value) < 4:
            continue
        _, _, bare = value.partition(" ")
        for form in (value, bare):
            if len(form) >= 4:
                found += [form, json.dumps(form)[1:-1], quote(form, safe=""), base64.b64encode(form.encode()).decode()]
    return sorted(set(found), key=len, reverse=True)
