"""The target: name, connection, TLS, protocol, credentials, model."""

from __future__ import annotations

import datetime
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

from llmgen import preflight, preparing, sources, target
from llmgen.checks.findings import Check, Level, failed, milliseconds, ok, warn
from llmgen.config import RunConfig
from llmgen.errors import ConfigError, LoadingError, TargetError
from llmgen.report.escaping import plain
from llmgen.target import Address, Target

GROUP: Final = "Target"
MOST_ADDRESSES: Final = 4  # tried of a name: each is a connection of its own, and this is no load
SOON_DAYS: Final = 7  # a certificate that ends within a week ends during somebody's campaign


def names(config: RunConfig) -> tuple[list[Target], Check]:
    """The targets with the addresses that can be used; none if a name is not known. ConfigError: source addresses."""
    local = sources.parse(config.client.source_addresses)
    started = time.monotonic()
    try:
        found = target.resolve(config.target)
    except TargetError as error:
        return [], failed(GROUP, "name", error)
    took = time.monotonic() - started
    found = [sources.reachable(one, local) for one in found]
    shown = [where(address) for one in found for address in one.addresses]
    text = f"{', '.join(shown[:MOST_ADDRESSES])}{' …' if len(shown) > MOST_ADDRESSES else ''} in {milliseconds(took)}"
    return found, ok(GROUP, "name", text, addresses=shown, seconds=took)


def look(
    one: Target, path: str, config: RunConfig, headers: Mapping[str, str]
) -> tuple[list[Check], preflight.Look | None]:
    """Connects to its addresses, and asks for the models; the look is None where nobody answered as we expect."""
    context = preparing.tls_context(config) if one.secure else None
    checks, address = connect(one, config)
    if address is None:
        return checks, None
    if context is not None:
        checks.append(tls(one, address, config, context))
        if checks[-1].level is Level.fail:
            return checks, None
    try:
        seen = preflight.look(one, config, path, headers, context)
    except LoadingError as error:
        return [*checks, failed(GROUP, "model", error)], None
    except TargetError as error:
        return [*checks, failed(GROUP, "protocol", error)], None
    except ConfigError as error:
        return [*checks, failed(GROUP, "credentials", error)], None
    checks.append(protocol(seen))
    checks.append(model(one, seen, config))
    return checks, seen


def connect(one: Target, config: RunConfig) -> tuple[list[Check], Address | None]:
    """One connection to each address, closed at once; the first that took us."""
    times: dict[str, float] = {}
    refused: dict[str, str] = {}
    first: Address | None = None
    failure: OSError | None = None
    for address in one.addresses[:MOST_ADDRESSES]:
        started = time.monotonic()
        try:
            with preflight.open_stream(address, one.sources, config.client.timeouts.connect):
                times[where(address)] = time.monotonic() - started
        except OSError as error:
            refused[where(address)] = error.strerror or str(error)
            failure = error
            continue
        first = first or address
    if first is None:
        return [failed(GROUP, "connect", TargetError(preflight.connect_text(one, failure)), refused=refused)], None
    text = ", ".join(milliseconds(seconds) for seconds in times.values())
    data = {"seconds": times, "refused": refused}
    if refused:
        text += f"; no answer from {', '.join(refused)}"
        cure = "requests that meet it lose time before they try the next; leave it out (--connect-to), or mend it"
        return [warn(GROUP, "connect", text, cure, **data)], first
    return [ok(GROUP, "connect", text, **data)], first


def tls(one: Target, address: Address, config: RunConfig, context: ssl.SSLContext) -> Check:
    try:
        raw = preflight.open_stream(address, one.sources, config.client.timeouts.connect)
        started = time.monotonic()
        with raw, context.wrap_socket(raw, server_hostname=one.host) as stream:
            took = time.monotonic() - started
            version, cipher, alpn = stream.version(), stream.cipher(), stream.selected_alpn_protocol()
            certificate = stream.getpeercert() or {}
    except (OSError, ValueError) as error:
        return failed(GROUP, "TLS", TargetError(preflight.tls_text(one, error)))
    text = f"{version} in {milliseconds(took)}, ALPN {alpn or 'none'}"
    data: dict[str, Any] = {"version": version, "cipher": cipher and cipher[0], "alpn": alpn, "seconds": took}
    if config.target.insecure:
        return warn(GROUP, "TLS", f"{text}, certificate not verified", "name its authority with --ca FILE", **data)
    ends = certificate.get("notAfter")
    if isinstance(ends, str):
        left = (ssl.cert_time_to_seconds(ends) - datetime.datetime.now(datetime.UTC).timestamp()) / 86400
        text += f", certificate good for {left:.0f} days"
        data["days_left"] = left
        if left < SOON_DAYS:
            return warn(GROUP, "TLS", text, "renew the server's certificate before it ends", **data)
    return ok(GROUP, "TLS", text, **data)


def protocol(seen: preflight.Look) -> Check:
    name = "HTTP/2" if seen.protocol == 2 else "HTTP/1.1"
    server = seen.facts.get("server")
    text = name + (f", {server}" if server else "")
    settings = seen.facts.get("http2_settings")
    if settings is not None:
        streams = settings.get("max_concurrent_streams")
        text += f"; {'any number of' if streams is None else streams} streams a connection, "
        text += f"window {settings.get('initial_window_size', 65535)} bytes"  # RFC 9113, 6.5.2: its default
    return ok(GROUP, "protocol", text, protocol=name, server=server, settings=settings)


def model(one: Target, seen: preflight.Look, config: RunConfig) -> Check:
    wanted = preparing.models_wanted(config)
    try:
        preflight.check_models(wanted, seen, one)
    except ConfigError as error:
        return failed(GROUP, "model", error, listed=seen.models[:50])
    data = {"listed": seen.models[:50], "wanted": wanted}
    if not seen.models:
        text = ", ".join(wanted) or "none named"
        return ok(GROUP, "model", f"{text}; the target does not list its models", **data)
    if not wanted:
        return ok(GROUP, "model", f"{plain(seen.models[0], 100)}, the first of {len(seen.models)} listed", **data)
    return ok(GROUP, "model", f"{', '.join(wanted)}: listed", **data)


def where(address: Address) -> str:
    """An address without its port, or a socket's path."""
    return str(address[1])
