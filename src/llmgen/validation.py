"""What can be known to be wrong with a run before anything is sent, beyond single keys and their types.

Each check raises ConfigError with the key, the value and what would be right. What the schedule, the dialects and the
workload know best is asked of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from llmgen import dialects, schedule
from llmgen.config import Client, Load, RunConfig, Target, plain, redact_url
from llmgen.credentials import resolve_headers, resolve_value
from llmgen.decoding import closest, decode, wrong
from llmgen.errors import ConfigError
from llmgen.metrics.comparison import parse_rule
from llmgen.metrics.presets import expand
from llmgen.metrics.slo import impossible, parse_all
from llmgen.metrics.verdict import thresholds
from llmgen.telemetry import sampling
from llmgen.workload import traces
from llmgen.workload.mix import RequestClass, request_classes
from llmgen.workload.sessions import check_sessions

RECORD_LEVELS: Final = ("events", "requests")
STAMPS: Final = ("kernel", "user")
BALANCES: Final = ("round-robin", "random", "least-in-flight")
HTTP2_ENGINES: Final = ("native", "h2")
KEY_HINT: Final = "use --api-key-env NAME or --header 'Authorization: env:NAME'"
URL_HINT: Final = "write http://HOST[:PORT][/path], https://… or unix:/path/of.sock"

MAX_UNIX_PATH: Final = 107  # sun_path of sockaddr_un holds 108 bytes, the last a zero (unix(7))
MAX_SPIN_S: Final = 0.01  # a spin is there to beat the timer's ~50 us; longer ones only burn the core
MAX_RETRIES: Final = 16  # waits double up to half a minute; a request's total timeout ends before more
MAX_WEIGHT: Final = 1_000_000  # the core counts turns in 64 bits and weights in 32
MAX_WORKERS: Final = 0xFFFE  # REQUEST_DTYPE and PLAN_DTYPE hold 16 bits; 0xFFFF is "none"

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
# Headers that the connection writes itself, for each protocol in its own way.
_OWN_HEADERS: Final[Mapping[str, str]] = {
    "host": "comes from the URL; to send to another address use --connect-to HOST:PORT",
    "content-length": "is counted from the body",
    "transfer-encoding": "is not needed: a body is sent whole",
    "connection": "is decided by the connection itself",
    "keep-alive": "is decided by the connection itself",
    "upgrade": "is not supported: choose the protocol with --http",
    "te": "is decided by the protocol",
    "expect": "is not supported: a body is sent at once",
    "accept-encoding": "would compress the stream and hide the time of its tokens",
}


def validate(config: RunConfig, environ: Mapping[str, str] = os.environ) -> None:
    """Refuses a run that cannot work as configured. Reads the environment and looks for named files; sends nothing."""
    # A struct made in Python is not checked by its constructor: go the way of a file once.
    try:
        decode(plain(config), RunConfig)
    except TypeError as error:
        raise ConfigError(f"the configuration holds a value that no file could hold: {error}") from None
    _check_names(config)
    _check_target(config.target, environ)
    _check_load(config.load)
    _check_client(config)
    thresholds(config.verdict)
    check_sessions(config, dialects.of(config.target))
    classes = request_classes(config, dialects.of(config.target), config.target.model or "any")
    _check_objectives(config, classes)
    sampling.check(config)


def _check_objectives(config: RunConfig, classes: list[RequestClass]) -> None:
    slos = parse_all(config.slo, {klass.name: klass.slo for klass in classes})
    streaming = {klass.name: klass.stream for klass in classes}
    for slo in slos:
        complaint = impossible(slo, streaming)
        if complaint is not None:
            raise ConfigError(complaint)
        if slo.metric == "goodput":
            limits = [one for one in slos if one.per_request and (slo.klass is None or one.klass in (None, slo.klass))]
            if not limits:
                raise ConfigError(f"slo {slo.expression!r}: goodput needs a limit on each request; add one: ttft<1s")
    for rule in config.regression:
        parse_rule(rule)


def complete(config: RunConfig) -> tuple[RunConfig, tuple[str, ...]]:
    """`config` with the defaults that hang on other keys, and one sentence on each that its user should know of.

    A concurrency makes the arrival `closed`; an open load without a rate gets schedule.DEFAULT_RATE; one that nothing
    ends gets schedule.DEFAULT_DURATION_S.
    """
    load = config.load
    notes: list[str] = []
    changes: dict[str, Any] = {}
    if load.concurrency is not None:
        changes["arrival"] = "closed"
    elif load.rate is None and not load.stages and load.trace is None and load.arrival != "closed":
        changes["rate"] = schedule.DEFAULT_RATE
        notes.append(f"no rate given: {schedule.DEFAULT_RATE:g} request/s (--rate R)")
    if load.duration is None and load.requests is None and not load.stages and load.trace is None:
        changes["duration"] = schedule.DEFAULT_DURATION_S
        notes.append(f"no end given: {schedule.DEFAULT_DURATION_S:g} s (--duration T or --requests N)")
    if config.slo_presets:
        objectives = expand(config.slo_presets)
        notes.append(f"objectives of {', '.join(config.slo_presets)}: {', '.join(objectives)}")
        config = msgspec.structs.replace(config, slo=(*config.slo, *objectives), slo_presets=())
    if changes:
        config = msgspec.structs.replace(config, load=msgspec.structs.replace(load, **changes))
    return config, tuple(notes)


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise wrong(key, value, f"unknown; {closest(value, known)}")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise wrong(key, value, f"must be at least {least:g}")


def _check_names(config: RunConfig) -> None:
    _one_of("record", config.record, RECORD_LEVELS)
    if config.name is not None and (not config.name.strip() or "/" in config.name or not config.name.isprintable()):
        raise wrong("name", config.name, "becomes part of a folder's name: printable text without a slash")
    if not 0 <= config.seed < 2**63:
        raise wrong("seed", config.seed, "must be a whole number from 0 to 2^63 - 1")
    if not config.out:
        raise wrong("out", config.out, "must name a folder")
    if config.matrix or config.repeat not in (None, 1):
        raise ConfigError("matrix, repeat: are for a suite of several runs (llmgen run, suite.run_suite), not one run")


def _check_target(target: Target, environ: Mapping[str, str]) -> None:
    if not target.urls:
        raise ConfigError("target.urls: missing: where shall the load go? (--url URL)")
    schemes = {_check_url(url, f"target.urls[{number}]").scheme for number, url in enumerate(target.urls)}
    dialects.of(target)
    _one_of("target.balance", target.balance, BALANCES)
    _check_weights(target)
    for name, value in target.headers.items():
        _check_header(name, value, environ)
    _check_key_source(target, environ)
    if target.connect_to is not None:
        _check_address(target.connect_to)
    _check_tls(target, schemes)


def _check_weights(target: Target) -> None:
    if target.weights and len(target.weights) != len(target.urls):
        raise wrong("target.weights", target.weights, f"there are {len(target.urls)} urls: one weight for each")
    for number, weight in enumerate(target.weights):
        if not 1 <= weight <= MAX_WEIGHT:
            raise wrong(f"target.weights[{number}]", weight, f"must be a whole number from 1 to {MAX_WEIGHT}")


def _check_url(url: str, key: str) -> SplitResult:
    """`url` split; unix sockets have their path in `path`."""
    shown = redact_url(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise wrong(key, shown, f"not a URL: {error}; {URL_HINT}") from None
    if parts.scheme not in ("http", "https", "unix"):
        guess = f"; did you mean http://{url}?" if "://" not in url and "@" not in url else ""
        raise wrong(key, shown, f"unknown scheme; {URL_HINT}{guess}")
    if "@" in parts.netloc:
        raise wrong(key, shown, f"holds a user or a password; {KEY_HINT}")
    if parts.fragment or any(character.isspace() or not character.isprintable() for character in url):
        raise wrong(key, shown, f"holds a space, a control character or a fragment; {URL_HINT}")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or len(parts.path.encode()) > MAX_UNIX_PATH:
            raise wrong(key, shown, f"write unix:/path/of.sock: absolute, at most {MAX_UNIX_PATH} bytes")
    elif not parts.hostname or port == 0:
        raise wrong(key, shown, f"names no {'port' if parts.hostname else 'host'}; {URL_HINT}")
    return parts


def _check_header(name: str, value: str, environ: Mapping[str, str]) -> None:
    key = f"target.headers.{name}"
    if not _TOKEN.fullmatch(name):
        raise ConfigError(f"target.headers: {name!r} is no header name; letters, digits and dashes are (RFC 9110)")
    if name.lower() in _OWN_HEADERS:
        raise ConfigError(f"{key}: cannot be set; it {_OWN_HEADERS[name.lower()]}")
    resolve_value(key, value, environ)


def _check_key_source(target: Target, environ: Mapping[str, str]) -> None:
    if target.api_key_env is not None:
        if target.api_key_command is not None:
            raise wrong("target.api_key_env", target.api_key_env, "contradicts api_key_command; leave one out")
        if not environ.get(target.api_key_env):
            raise wrong("target.api_key_env", target.api_key_env, "no such variable is set; export it first")
    if target.api_key_command is not None and not target.api_key_command.strip():
        raise ConfigError("target.api_key_command: empty; it is a command that prints the key")
    resolve_headers(target, environ)


def _check_address(text: str) -> None:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise wrong("target.connect_to", text, "write HOST:PORT, an IPv6 address in brackets")


def _check_tls(target: Target, schemes: set[str]) -> None:
    if "https" not in schemes:
        for name in ("insecure", "ca", "cert", "key"):
            value = getattr(target, name)
            if value:
                raise wrong(f"target.{name}", value, "has no effect without an https:// URL; leave it out")
    if target.insecure and target.ca is not None:
        raise wrong("target.ca", target.ca, "contradicts insecure, which verifies nothing; leave one out")
    if target.key is not None and target.cert is None:
        raise wrong("target.key", target.key, "a key needs its certificate (--cert FILE)")
    for name, path in (("ca", target.ca), ("cert", target.cert), ("key", target.key)):
        if path is not None:
            _check_file(f"target.{name}", path)


def _check_file(key: str, path: str) -> None:
    if not os.path.isfile(path):
        raise wrong(key, path, "no such file")
    if not os.access(path, os.R_OK):
        raise wrong(key, path, "this user may not read it")


def _check_load(load: Load) -> None:
    schedule.check(load)
    if load.trace is not None:
        traces.check(load.trace)
    span = schedule.staged_span_s(load)
    if load.duration is not None:
        span = min(load.duration, span or load.duration)
    elif span is None and load.requests is None and load.trace is None:
        span = schedule.DEFAULT_DURATION_S
    cut = 0.0
    for key, value in (("load.warmup", load.warmup), ("load.cooldown", load.cooldown)):
        if isinstance(value, float):
            share = value / span if span else 0.0
        else:
            share = float(value.rstrip("%")) / 100
        cut += share
        if cut >= 1:
            raise wrong(key, value, "with the other cut leaves nothing to measure; cut less or load longer")


def _check_client(config: RunConfig) -> None:
    client, target = config.client, config.target
    for name in ("workers", "connections", "streams_per_connection"):
        _at_least(f"client.{name}", getattr(client, name), 1)
    if client.workers is not None and client.workers > MAX_WORKERS:
        raise wrong("client.workers", client.workers, f"must be at most {MAX_WORKERS}")
    _at_least("client.preconnect", client.preconnect, 0)
    if client.connections is not None and client.preconnect > client.connections:
        raise wrong("client.preconnect", client.preconnect, f"is more than client.connections, {client.connections}")
    for name in ("connect", "first_token", "idle", "total"):
        value = getattr(client.timeouts, name)
        if value <= 0:
            raise wrong(f"client.timeouts.{name}", value, "must be above 0")
    if client.patience is not None and client.patience <= 0:
        raise wrong("client.patience", client.patience, "must be above 0")
    if not 0 <= client.retries <= MAX_RETRIES:
        raise wrong("client.retries", client.retries, f"must be from 0 to {MAX_RETRIES}")
    if client.spin > MAX_SPIN_S:
        raise wrong("client.spin", client.spin, f"must be at most {MAX_SPIN_S:g} s; 50us is usual")
    if client.source_addresses and all(url.startswith("unix:") for url in target.urls):
        raise wrong("client.source_addresses", client.source_addresses, "has no effect on a unix socket; leave it out")
    _one_of("client.stamps", client.stamps, STAMPS)
    _one_of("client.http2_engine", client.http2_engine, HTTP2_ENGINES)
    secure = any(url.startswith("https:") for url in target.urls)
    if target.http == "1.1" or (target.http == "auto" and not secure):
        _check_http1_only(client)


def _check_http1_only(client: Client) -> None:
    streams, engine = client.streams_per_connection, client.http2_engine
    cure = "this run speaks HTTP/1.1; choose --http 2 or leave it out"
    if streams is not None and streams > 1:
        raise wrong("client.streams_per_connection", streams, cure)
    if engine != "native":
        raise wrong("client.http2_engine", engine, cure)
