"""Waiting for a target that is not ready yet: what it answered meanwhile, and when it became ready.

Only questions are asked (its models, /health), never for tokens: the first requests are to find the server cold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from llmgen import preflight, preparing, sources, target
from llmgen.config import RunConfig
from llmgen.credentials import hide
from llmgen.errors import TargetError
from llmgen.loading import loading, words
from llmgen.report.escaping import plain
from llmgen.target import Target

EVERY_S: Final = 0.25  # between looks: the error of the time to ready
CONNECT_S: Final = 2.0  # for a look's connection: what drops packets is not ready
MOST_SAID: Final = 100
UNAVAILABLE: Final = range(500, 600)
GATEWAY: Final = "x-litellm"  # its /health puts a request to every model behind it


@dataclass
class Phase:
    """A time in which every look saw the same. state: unreachable, refused, silent, loading, unavailable, ready."""

    state: str
    said: str
    from_s: float
    until_s: float
    looks: int = 1


def wait(
    config: RunConfig, most_s: float, told: Callable[[Phase], None] = lambda phase: None
) -> tuple[list[Phase], bool]:
    """Looks at every target until all are ready, `most_s` seconds at most: (phases, whether they are).

    Times are seconds since the call; `told` is called at each new phase. ConfigError: the target refuses us.
    """
    headers = preparing.request_headers(config)
    paths = preparing.endpoint_paths(config)
    began = time.monotonic()
    phases: list[Phase] = []
    tick = 0
    while True:
        state, said = look(config, paths, headers)
        now = time.monotonic() - began
        if phases and (phases[-1].state, phases[-1].said) == (state, said):
            phases[-1].until_s, phases[-1].looks = now, phases[-1].looks + 1
        else:
            phases.append(Phase(state, said, now, now))
            told(phases[-1])
        if state == "ready" or now >= most_s:
            return phases, state == "ready"
        tick += 1
        while began + tick * EVERY_S < time.monotonic():
            tick += 1
        time.sleep(max(0.0, began + min(tick * EVERY_S, most_s) - time.monotonic()))


def look(config: RunConfig, paths: Sequence[str], headers: dict[str, str]) -> tuple[str, str]:
    """(state, words) of the first target that is not ready; ("ready", "") where all are."""
    try:
        targets = [
            sources.reachable(one, sources.parse(config.client.source_addresses))
            for one in target.resolve(config.target)
        ]
    except TargetError as error:
        return "unreachable", _short(str(error))
    for one, path in zip(targets, paths, strict=True):
        state, said = _look_at(one, path, config, headers)
        if state != "ready":
            return state, f"{one.url}: {said}" if len(targets) > 1 else said
    return "ready", ""


def _look_at(one: Target, path: str, config: RunConfig, headers: dict[str, str]) -> tuple[str, str]:
    context = preparing.tls_context(config) if one.secure else None
    models = preflight.models_path(path)
    asked = [(models, headers)] if models else []
    for where, given in (*asked, (preflight.HEALTH, {})):
        try:
            with preflight.connected(one, CONNECT_S, context) as stream:
                answer = preflight.ask_on(stream, one, config, where, given)
        except TargetError as error:
            told = str(error)
            if "it said 'nothing'" in told:  # a container's proxy listens before the server does
                return "silent", "closes connections without an answer"
            state = "refused" if "refused" in told or "no such socket" in told else "unreachable"
            return state, _short(told.removeprefix(f"{one.url}: "))
        if answer.status is None:
            return "silent", "takes connections, does not answer"
        said = hide(plain(words(answer.body), MOST_SAID), target.secrets(headers))
        if loading(answer.status, answer.body) is not None:
            return "loading", f"{answer.status} {said}"
        if answer.status in UNAVAILABLE and (where == models or answer.status == 503):
            return "unavailable", f"{answer.status} {said}".strip()
        if any(name.startswith(GATEWAY) for name in answer.headers):
            break
    return "ready", ""


def _short(text: str) -> str:
    return plain(text.partition(";")[0], MOST_SAID)
