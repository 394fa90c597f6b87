"""From the configuration to what is known of the targets before the load: addresses, headers, protocol, model."""

from __future__ import annotations

import os
import shlex
import ssl
import subprocess
from dataclasses import dataclass
from typing import Final

from llmgen import calibration, dialects, planning, preflight, sources, target
from llmgen.config import RunConfig
from llmgen.credentials import resolve_headers, resolve_value
from llmgen.errors import ConfigError
from llmgen.logs import log
from llmgen.target import Target
from llmgen.tls import make_context
from llmgen.workload.mix import parse_models
from llmgen.workload.tokenizers import SERVER, Tokens

KEY_COMMAND_WAIT_S: Final = 30.0
PROXY_VARIABLES: Final = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Prepared:
    """What is known of the targets before the load."""

    headers: dict[str, str]
    targets: list[Target]
    looks: list[preflight.Look]
    model: str | None
    tokens: Tokens | None = None  # None: what the configuration names


def warn_of_proxies() -> None:
    found = [name for name in PROXY_VARIABLES if os.environ.get(name)]
    if found:
        log.info("%s ignored: load goes straight to the target", ", ".join(found))


def request_headers(config: RunConfig) -> dict[str, str]:
    """The user's headers with their secrets, for the control pipe only."""
    dialect = dialects.of(config.target)
    headers = resolve_headers(config.target, key=dialect.key)
    own = {name.lower() for name in headers}
    headers.update({name: value for name, value in dialect.headers.items() if name not in own})
    command = config.target.api_key_command
    if command is None:
        return headers
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=KEY_COMMAND_WAIT_S, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"target.api_key_command: {shlex.split(command)[0]!r} failed: {type(error).__name__}"
        ) from None
    key = done.stdout.strip()
    if not key:
        raise ConfigError("target.api_key_command: printed nothing; it must print the key")
    headers[dialect.key.header] = resolve_value("target.api_key_command", dialect.key.prefix + key)
    return headers


def prepare(config: RunConfig, headers: dict[str, str]) -> Prepared:
    """Resolves the names and looks at every target. TargetError, ConfigError."""
    local = sources.parse(config.client.source_addresses)
    targets = [sources.reachable(one, local) for one in target.resolve(config.target)]
    paths = endpoint_paths(config)
    looks = []
    for one, path in zip(targets, paths, strict=True):
        seen = preflight.look(one, config, path, headers, tls_context(config) if one.secure else None)
        for note in seen.notes:
            log.info(note)
        looks.append(seen)
    wanted_models = models_wanted(config)
    for one, seen in zip(targets, looks, strict=True):
        preflight.check_models(wanted_models, seen, one)
    model = config.target.model
    if model is None and looks[0].models:
        model = looks[0].models[0]
        log.info("model: %s (the first that the target lists)", model)
    tokens = None
    if config.workload.tokenizer == SERVER:
        context = tls_context(config, ["http/1.1"]) if targets[0].secure else None
        first = parse_models(model, "target.model")[0][0]
        tokens = calibration.tokens_of_server(targets[0], config, paths[0], headers, first, context)
        log.info(
            "tokens: %d words are one token each on %s; its template adds %d to a prompt",
            *(len(tokens.vocabulary.words), targets[0].url, tokens.vocabulary.template_tokens),
        )
    return Prepared(headers, targets, looks, model, tokens)


def tls_context(config: RunConfig, alpn: list[str] | None = None) -> ssl.SSLContext:
    """For the look at a target: offers the protocols that the configuration leaves open, or these."""
    t = config.target
    wanted = alpn or {"1.1": ["http/1.1"], "2": ["h2"]}.get(t.http, ["h2", "http/1.1"])
    return make_context(insecure=t.insecure, ca=t.ca, cert=t.cert, key=t.key, alpn=wanted)


def endpoint_paths(config: RunConfig) -> list[str]:
    """The endpoint's path on every target."""
    return list(planning.endpoint_paths(config, dialects.of(config.target)))


def models_wanted(config: RunConfig) -> list[str]:
    texts = [("target.model", config.target.model)]
    texts += [(f"workload.mix.{name}.model", klass.model) for name, klass in config.workload.mix.items()]
    return sorted({m for key, text in texts if text for m in parse_models(text, key)[0] if m is not None})
