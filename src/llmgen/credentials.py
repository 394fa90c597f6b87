"""Credentials: which names carry them, where their values come from, and where they must not stand."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmgen.errors import ConfigError

if TYPE_CHECKING:
    from llmgen.config import Target

SECRET_WORDS: Final = ("authorization", "cookie", "token", "secret", "api-key", "apikey", "api_key", "password")

HIDDEN: Final = "***"
SHORTEST_PIECE: Final = 4  # characters of a secret that a cut at the end of a text may leave: they tell nothing

# RFC 9110, 5.5: what a field value may hold. CR, LF and NUL would be header injection.
_FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def is_secret_name(name: str) -> bool:
    """Whether a header or query parameter of this name carries a credential. `key` alone does: Google's APIs use it."""
    lower = name.lower()
    return lower == "key" or any(word in lower for word in SECRET_WORDS)


def hide(text: str, secrets: Sequence[str]) -> str:
    """`text` with *** in place of each of `secrets` (the longest first), and of a piece of one that its end cuts."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for secret in secrets:
        for size in range(len(secret) - 1, SHORTEST_PIECE, -1):
            if text.endswith(secret[:size]):
                return text[:-size] + HIDDEN
    return text


def is_reference(value: str) -> bool:
    """Whether a header's value only says where the secret is: ``env:NAME`` or ``@file``."""
    return value.startswith(("env:", "@"))


def resolve_value(key: str, value: str, environ: Mapping[str, str] = os.environ) -> str:
    """What a header's `value` stands for: itself, the variable of ``env:NAME`` or the text of ``@file``."""
    text = value
    if value.startswith("env:"):
        if value[4:] not in environ:
            raise ConfigError(f"{key}={value!r}: the environment has no variable {value[4:]}; export it first")
        text = environ[value[4:]]
    elif value.startswith("@"):
        try:
            text = Path(value[1:]).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError(f"{key}={value!r}: cannot be read: {reason}") from None
    if not _FIELD_VALUE.fullmatch(text):
        raise ConfigError(f"{key}: the value holds a line break or another character that RFC 9110 forbids in a header")
    return text.strip(" \t")


@dataclass(frozen=True)
class Key:
    """How an API wants its key: in which header, after which word, and which variable usually holds it."""

    header: str = "authorization"
    prefix: str = "Bearer "
    variable: str = "OPENAI_API_KEY"


BEARER: Final = Key()


def resolve_headers(target: Target, environ: Mapping[str, str] = os.environ, key: Key = BEARER) -> dict[str, str]:
    """The headers of every request, references replaced by what they stand for. For the control pipe, never for argv.

    Without a header of the user's that authenticates, the key of `api_key_env` (of the API's usual variable if that is
    not named and set) is sent as `key` says. The key of `api_key_command` is the caller's part.
    """
    headers = {name: resolve_value(f"target.headers.{name}", value, environ) for name, value in target.headers.items()}
    if target.api_key_command is not None or any(is_secret_name(name) for name in headers):
        return headers
    found = environ.get(target.api_key_env or key.variable, "")
    if found:
        headers[key.header] = resolve_value("target.api_key_env", key.prefix + found, environ)
    return headers


def refuse_literal_secret(name: str, value: str) -> None:
    """Raises ConfigError for a credential on the command line, where every user of the machine can read it."""
    if is_secret_name(name) and not is_reference(value):
        raise ConfigError(
            f"--header {name}: a credential on the command line can be read in the list of processes and the shell's "
            f"history; write '{name}: env:VARIABLE' or '{name}: @file'"
        )
