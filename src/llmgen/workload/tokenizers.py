"""Counting tokens with a Hugging Face tokenizer that lies on this machine (extra `tokenizers`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmgen.errors import ConfigError
from llmgen.workload.vocabulary import Vocabulary, exact

SERVER: Final = "server"
KEY: Final = "workload.tokenizer"


@dataclass(frozen=True)
class Tokens:
    """The words to use, and how to count the tokens of a text of others; None: by words."""

    vocabulary: Vocabulary
    count: Callable[[str], int] | None = None


def load(name: str | None, template_tokens: int | None) -> Tokens:
    """What `workload.tokenizer` names; `server` is calibrated before and does not come here. ConfigError."""
    if name is None:
        return Tokens(Vocabulary(template_tokens=template_tokens or 0))
    if name == SERVER:
        raise ConfigError(f"{KEY}='server': is calibrated with the server of a run; here name a tokenizer.json")
    path, folder = _paths(name)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(f"{KEY}={name!r}: needs a package; pip install 'llmgen[tokenizers]'") from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        raise ConfigError(f"{KEY}={name!r}: {path.name} cannot be read as a tokenizer: {error}") from None

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    if template_tokens is None:
        template_tokens = _template_tokens(folder / "tokenizer_config.json", count)
    return Tokens(exact(count, template_tokens), count)


def _paths(name: str) -> tuple[Path, Path]:
    """tokenizer.json, and the folder it lies in."""
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{KEY}={name!r}: no such file; name a tokenizer.json, the folder that holds one, or server")
    return path, path.parent


def _template_tokens(path: Path, count: Callable[[str], int]) -> int:
    """What the chat template of tokenizer_config.json puts around one user message; 0 without a template or jinja2."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(template, list):  # several by name
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        return 0
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        return 0

    def fail(message: str) -> None:
        raise TemplateError(message)

    text = "the time of day"
    values: dict[str, Any] = {
        name: _special(settings.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
    }
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = fail
    try:
        message = {"role": "user", "content": text}
        made = environment.from_string(template).render(messages=[message], add_generation_prompt=True, **values)
    except (TemplateError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: its chat template cannot be used: {error}; set workload.template_tokens") from None
    return max(0, count(made) - count(text))


def _special(value: Any) -> str:
    """A special token: text, or {"content": text}."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
