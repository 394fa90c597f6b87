"""Exact prompt lengths through the server's own /tokenize, asked before the load (`--tokenizer server`).

vLLM and SGLang take {"prompt"} or {"messages"} and answer {"count", "tokens"}; llama.cpp takes {"content"} and answers
{"tokens"}; TGI takes {"inputs"} and answers a list. Some hundred short questions on one connection.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

from llmgen import preflight
from llmgen.config import RunConfig
from llmgen.errors import ConfigError, TargetError
from llmgen.target import Target
from llmgen.workload.tokenizers import Tokens
from llmgen.workload.vocabulary import exact

WAIT_S: Final = 10.0  # for one answer
WHOLE_WAIT_S: Final = 60.0  # for all of them
MOST_BYTES: Final = 16 << 20
TEXT: Final = "the time of day"


def tokens_of_server(
    target: Target,
    config: RunConfig,
    path: str,
    headers: Mapping[str, str],
    model: str | None,
    context: ssl.SSLContext | None,
) -> Tokens:
    """The words that are one token each to this server. ConfigError if it does not tell, TargetError if it is gone."""
    with preflight.connected(target, config.client.timeouts.connect, context) as stream:
        if stream.family != socket.AF_UNIX:
            # Head and body are two writes: without it each question would wait for a delayed acknowledgement.
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asker = _Asker(stream, target, path, headers, model)
        template = config.workload.template_tokens
        if template is None:
            template = asker.template_tokens() if config.target.api == "chat" else 0
        return Tokens(exact(asker.count, template))


class _Asker:
    """One connection to the server, and the form of question that it understands."""

    def __init__(self, stream: Any, target: Target, path: str, headers: Mapping[str, str], model: str | None) -> None:
        self._connection = http.client.HTTPConnection(target.authority, timeout=WAIT_S)
        self._connection.sock = stream
        self._target, self._headers = target, dict(headers)
        self._path = path.partition("?")[0].partition("/v1/")[0] + "/tokenize"
        named = {} if model is None else {"model": model}
        self._forms: list[tuple[str, dict[str, Any]]] = [
            ("prompt", {**named, "add_special_tokens": False}),
            ("content", {"add_special": False}),
            ("inputs", {"add_special_tokens": False}),
        ]
        self._named = named
        self._until = time.monotonic() + WHOLE_WAIT_S

    def count(self, text: str) -> int:
        """Tokens of a text, perhaps and a constant."""
        while self._forms:
            field, rest = self._forms[0]
            found = self._ask({**rest, field: text})
            if found is not None:
                return found
            self._forms.pop(0)  # not this one; the answer to the next is the first that counts
        raise ConfigError(
            f"workload.tokenizer='server': {self._target.url} has no {self._path} that counts tokens; "
            "name a tokenizer.json, or leave it out"
        )

    def template_tokens(self) -> int:
        """What the server's chat template puts around one user message; 0 where it does not count messages."""
        plain = self.count(TEXT)
        message = {"role": "user", "content": TEXT}
        whole = self._ask({**self._named, "messages": [message], "add_generation_prompt": True})
        return 0 if whole is None else max(0, whole - plain)

    def _ask(self, question: dict[str, Any]) -> int | None:
        if time.monotonic() > self._until:
            raise TargetError(
                f"{self._target.url}: {self._path} did not answer some hundred questions in {WHOLE_WAIT_S:g} s"
            )
        body = json.dumps(question).encode()
        try:
            self._connection.request("POST", self._path, body, {**self._headers, "content-type": "application/json"})
            answer = self._connection.getresponse()
            content = answer.read(MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise TargetError(f"{self._target.url}: {self._path} failed: {type(error).__name__}: {error}") from None
        if answer.status != 200:
            return None
        return _counted(content)


def _counted(content: bytes) -> int | None:
    """The number of tokens in an answer of any of these servers; None if it tells none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        count = found.get("count")
        if isinstance(count, int) and not isinstance(count, bool):
            return count
        found = found.get("tokens")
    return len(found) if isinstance(found, list) else None
